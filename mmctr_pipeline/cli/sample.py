"""`mmctr sample`."""

import shutil
from pathlib import Path

import click

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.settings import SettingsError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=7, help="Seed of the dataset.")
@click.option(
    "--scale", default=1.0, help="Size: 1 is the default size, 90 that of MicroLens_1M_x1."
)
@click.option("--no-images", is_flag=True, help="Leave out the cover images.")
def sample(folder: Path, seed: int, scale: float, no_images: bool) -> None:
    """Generate a sample dataset into FOLDER, which is created if needed."""
    from mmctr_pipeline.files.errors import naming_write_errors
    from mmctr_pipeline.files.writable import require_writable
    from mmctr_pipeline.sample.write import generate_sample

    config = SampleConfig.scaled(scale, seed=seed, images=not no_images)
    require_writable(folder)
    if any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty; name a new folder")
    try:
        with naming_write_errors(folder):
            generate_sample(config, folder)
    except BaseException:
        # Leave the folder empty again, so that the same command can be repeated.
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    print(f"MMCTR_DATA_DIR={folder.resolve()}")

"""`mmctr sample`."""

from pathlib import Path

import click

from mmctr_pipeline.sample.config import SampleConfig


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=7)
@click.option(
    "--scale", default=1.0, help="Size: 1 is the default size, 90 that of MicroLens_1M_x1."
)
@click.option("--no-images", is_flag=True, help="Leave out the cover images.")
def sample(folder: Path, seed: int, scale: float, no_images: bool) -> None:
    """Generate a sample dataset into FOLDER, which is created if needed."""
    from mmctr_pipeline.sample.write import generate_sample

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    generate_sample(SampleConfig.scaled(scale, seed=seed, images=not no_images), folder)
    print(f"MMCTR_DATA_DIR={folder.resolve()}")

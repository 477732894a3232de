"""`mmctr sample`."""

import shutil
from pathlib import Path

import click

from mmctr_pipeline.sample.config import SampleConfig, SamplePaths
from mmctr_pipeline.settings import SettingsError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=7, help="Seed of the dataset.")
@click.option(
    "--scale", default=1.0, help="Size: 1 is the default size, 90 that of MicroLens_1M_x1."
)
@click.option("--no-images", is_flag=True, help="Leave out the cover images.")
@click.option(
    "--days",
    type=int,
    help="Write logs by day instead of splits: a first window of 28 days, then this many days. If "
    "FOLDER has some of them already, only the others are added.",
)
@click.option("--first-day", help="First day of logs by day. [default: 2026-10-01]")
@click.option(
    "--drift", type=float, help="Size of the trends that tastes follow, with --days. [default: 0.8]"
)
def sample(
    folder: Path,
    seed: int,
    scale: float,
    no_images: bool,
    days: int | None,
    first_day: str | None,
    drift: float | None,
) -> None:
    """Generate a sample dataset into FOLDER, which is created if needed."""
    from mmctr_pipeline.files.errors import naming_write_errors
    from mmctr_pipeline.files.writable import require_writable
    from mmctr_pipeline.sample.write import generate_sample

    of_days = {"first_day": first_day, "drift": drift}
    given = {name: value for name, value in of_days.items() if value is not None}
    if given and days is None:
        raise SettingsError("--first-day and --drift are for logs by day; add --days")
    config = SampleConfig.scaled(scale, seed=seed, images=not no_images, days=days, **given)
    require_writable(folder)
    is_empty = not any(folder.iterdir())
    if not is_empty and (days is None or not SamplePaths(folder).summary.is_file()):
        raise SettingsError(f"{folder} is not empty; name a new folder")
    try:
        with naming_write_errors(folder):
            generate_sample(config, folder)
    except BaseException:
        # Leave a folder that was empty as it was, so that the same command can be repeated. Days
        # that were there already stay.
        for path in folder.iterdir() if is_empty else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    print(f"MMCTR_DATA_DIR={folder.resolve()}")

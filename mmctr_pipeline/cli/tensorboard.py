"""`mmctr tensorboard`."""

from pathlib import Path
from typing import Any

import click

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.settings import SettingsError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def tensorboard(folder: Path) -> None:
    """Write the training curves of all kept models into FOLDER, for TensorBoard.

    Needs the extra tensorboard. Then: tensorboard --logdir FOLDER
    """
    from mmctr_pipeline.files.records import read_record
    from mmctr_pipeline.registry.versions import newest_first

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "TensorBoard is not installed. Fix: install the extra tensorboard "
            "(make install EXTRAS=dev,tensorboard)"
        ) from error
    storage = Deployment.from_environment().storage_dir
    versions = newest_first(storage)
    for version in versions:
        target = folder / version
        if target.exists():
            continue  # written before, and versions never change
        record = read_record(storage / "models" / version / "metrics.json")
        with SummaryWriter(str(target)) as writer:
            for epoch in record["history"]["epochs"]:
                for name, value in _numbers(epoch).items():
                    # Steps are integers, but epochs may be halves: a step is a thousandth.
                    writer.add_scalar(name, value, round(1000 * epoch["epoch"]))
    print(f"{len(versions)} models; look at them with: tensorboard --logdir {folder}")


def _numbers(epoch: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name."""
    values = {**epoch["metrics"], **epoch}
    return {
        name.replace("_", " "): value
        for name, value in values.items()
        if name != "epoch" and isinstance(value, int | float)
    }

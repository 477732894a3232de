"""Comparisons on the command line: train all rows, then write and print their table."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.writable import require_writable
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.settings import SettingsError


def data_folder(deployment: Deployment, sample_size: Mapping[str, float | None]) -> Path | None:
    """Return the folder of MMCTR_DATA_DIR, or None if it is not set.

    `sample_size` has the options that describe the sample dataset, by parameter name. Raises
    `SettingsError` if MMCTR_DATA_DIR is set and any of these options has a value.
    """
    names = [name for name, value in sample_size.items() if value is not None]
    given = [f"--{name.removeprefix('n_').replace('_', '-')}" for name in names]
    if deployment.data_dir is not None and given:
        raise SettingsError(
            f"{', '.join(given)}: for the sample dataset only, but MMCTR_DATA_DIR is "
            f"{str(deployment.data_dir)!r}; leave the options out, or unset MMCTR_DATA_DIR"
        )
    return deployment.data_dir


def compare(
    entries: Sequence[Entry],
    data: Path | SampleConfig,
    deployment: Deployment,
    name: str,
    seeds: int = 1,
    minutes: float = 0.0,
    again: bool = False,
    *,
    by_auc: bool = False,
    pairs: Sequence[tuple[str, str]] = (),
) -> int:
    """Run a comparison and print its table and one line of JSON; return the exit status.

    Parameters
    ----------
    entries
        The rows; the first one's preset chooses the window of logs by day.
    data
        The data folder, or the settings of a sample dataset. The sample dataset is generated if
        the storage folder does not have it yet.
    deployment
        Where to store and compute.
    name
        File name of the table, without its suffix.
    seeds, by_auc, pairs
        As in `Runner.run`.
    minutes, again
        As in `Runner`.
    """
    storage = deployment.storage_dir
    require_writable(storage, "MMCTR_STORAGE_DIR")
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.comparison.output import best_possible_auc, write_report
    from mmctr_pipeline.comparison.row_vectors import RowVectors
    from mmctr_pipeline.comparison.runner import Runner
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.user_split import selecting_rows
    from mmctr_pipeline.data.window import resolve_day
    from mmctr_pipeline.sample.write import ensure_sample
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(deployment.device)
    folder = data if isinstance(data, Path) else ensure_sample(data, storage / "sample")
    layout = find_data(folder)
    days = resolve_day(layout.root, layout.interactions, entries[0].preset.data)
    dataset = pipeline.load_dataset(layout, days)
    vectors = RowVectors(layout, dataset.items, storage, device, days)
    runner = Runner(dataset, vectors, storage, device, minutes, again)
    board = runner.run(entries, seeds, by_auc, pairs)
    limit = f" or {minutes:g} minutes, whichever ends first" if minutes else ""
    heading = (
        f"{layout.root.name}: {len(dataset.train):,} train rows, AUC on "
        f"{board.n_reporting_rows:,} valid rows that did not select the epoch; each model trained "
        f"for the epochs of its preset{limit}, on {device}"
    )
    best = best_possible_auc(layout.root, dataset, ~selecting_rows(dataset))
    lines = write_report(board, runner.folder, name, heading, best)
    print("\n".join(["", *lines, "", f"written to {runner.folder / name}.md, .json and .png"]))
    return 1 if board.failures else 0

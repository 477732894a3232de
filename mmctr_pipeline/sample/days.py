"""Write a sample dataset as logs by day. Days that are already there stay as they are."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.days import MARKER
from mmctr_pipeline.files.atomic import atomic_write, write_text
from mmctr_pipeline.metrics import MetricError, auc
from mmctr_pipeline.sample import tables
from mmctr_pipeline.sample.behaviour import Behaviour, Impressions
from mmctr_pipeline.sample.catalogue import Catalogue, Stream, draw_items, generator
from mmctr_pipeline.sample.config import SAMPLE_VERSION, WINDOW_DAYS, SampleConfig, SamplePaths
from mmctr_pipeline.sample.tastes import draw_favourites
from mmctr_pipeline.sample.timeline import Timeline
from mmctr_pipeline.sample.titles import draw_titles
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

_USERS_PER_PART = 12_500
_PARTS = 2
"""Least number of part files of a day."""


def generate_days(config: SampleConfig, folder: Path) -> dict[str, Any]:
    """Write the days of a dataset by day that `folder` does not have yet; return the summary.

    A day's files are the same whether it is written with later days or before them. `_SUCCESS` is
    written last into the folder of a day, so after a kill the next call writes the rest.

    Raises `SettingsError` if the folder holds a sample dataset with other settings.
    """
    assert config.days is not None
    before = _days_so_far(config, folder)
    world, n_days = _World(config), WINDOW_DAYS + config.days
    logger.info(
        f"sample dataset by day: {n_days:,} days from {config.first_day}, "
        f"{min(before, n_days):,} of them are there; {world.timeline.n_items(n_days - 1):,} items "
        f"in the end, seed {config.seed}"
    )
    for day in range(n_days):
        world.add_items(day)
        if day >= before:
            _write_day(day, world, SamplePaths(folder))
    summary = _summary(config, max(n_days, before), SamplePaths(folder))
    write_text(SamplePaths(folder).summary, json.dumps(summary, indent=2) + "\n")
    logger.info(f"sample dataset by day: {summary['last_day']} is the last day")
    return summary


def read_truth(folder: Path, days: Sequence[str]) -> pa.Table:
    """Return the true probabilities and labels of the interactions of some days, in row order."""
    paths = SamplePaths(folder)
    truth = pa.concat_tables(pq.read_table(paths.truth_of(day), partitioning=None) for day in days)
    return truth.filter(pa.compute.equal(truth.column("split"), "interactions"))


class _World:
    """Items and users as they are on a day."""

    def __init__(self, config: SampleConfig) -> None:
        self.config, self.timeline = config, Timeline(config)
        self._catalogues: list[Catalogue] = []
        self._favourites: list[np.ndarray] = []

    @property
    def new_items(self) -> Catalogue:
        """The items that are new on the day added last."""
        return self._catalogues[-1]

    @property
    def favourites(self) -> np.ndarray:
        """Favourite category and style of all users, `(U, 2)`."""
        return np.concatenate(self._favourites)

    def add_items(self, day: int) -> None:
        """Go on to a day: add its items and users. Days come one after another."""
        n_before, n_items = self.timeline.n_items(day - 1), self.timeline.n_items(day)
        items = draw_items(self.config, n_items - n_before, n_before + 1, day)
        self._catalogues.append(dataclasses.replace(items, cold=np.full(len(items), False)))
        n_users = self.timeline.n_users(day) - self.timeline.n_users(day - 1)
        rng = generator(self.config.seed, Stream.TASTES, day)
        self._favourites.append(draw_favourites(n_users, rng))

    def catalogue(self) -> Catalogue:
        """Return all items; those that are new, except on the first day, are marked as cold."""
        if len(self._catalogues) == 1:
            return self.new_items
        new = dataclasses.replace(self.new_items, cold=np.full(len(self.new_items), True))
        return Catalogue.concatenate([*self._catalogues[:-1], new])


def _write_day(day: int, world: _World, paths: SamplePaths) -> None:
    config, date = world.config, world.timeline.date(day)
    _write_items(date, world.new_items, config, paths)
    catalogue = world.catalogue()
    behaviour = Behaviour(catalogue, config, world.timeline.trend(day))
    truth = []
    for name, folder, stream, n_rows in (
        ("candidates", paths.candidates, Stream.CANDIDATES, world.timeline.n_candidates()),
        ("interactions", paths.logs, Stream.DAYS, world.timeline.n_rows(day)),
    ):
        folder = folder / f"day={date}"
        folder.mkdir(parents=True, exist_ok=True)
        first_row_id = 1
        for part, (users, rows) in enumerate(_draw(day, n_rows, stream, behaviour, world)):
            row_id = first_row_id if name == "candidates" else None
            batch = tables.impression_batch(rows, users, catalogue, row_id)
            table = pa.Table.from_batches([batch])
            _write_table(folder / f"part-{part:04}.parquet", table, tables.LIST_OPTIONS)
            truth.append(_truth(name, rows))
            first_row_id += len(rows)
        if name == "candidates":
            (folder / MARKER).touch()
    _write_table(paths.truth_of(date), pa.concat_tables(truth), {})
    (paths.logs / f"day={date}" / MARKER).touch()


def _write_items(date: str, items: Catalogue, config: SampleConfig, paths: SamplePaths) -> None:
    """Write the items of a day: covers, titles, vectors, truth. They come before their rows."""
    if not len(items):
        return
    if config.images:
        # Imported here, because a dataset without images does not need Pillow.
        from mmctr_pipeline.sample.covers import write_covers

        write_covers(paths.images, items, config)
    name = f"items-{date}.parquet"
    with atomic_write(paths.root / "item_info.parquet" / name) as temporary:
        tables.write_item_info(temporary, items, config)
    with atomic_write(paths.item_truth / name) as temporary:
        tables.write_item_truth(temporary, items)
    with atomic_write(paths.item_feature / name) as temporary:
        tables.write_item_feature(temporary, items, draw_titles(items, config), config)


def _draw(
    day: int, n_rows: int, stream: Stream, behaviour: Behaviour, world: _World
) -> list[tuple[np.ndarray, Impressions]]:
    """Draw the rows of a day, in parts: the ids of some users, and all rows of these users."""
    n_users, per_history = world.timeline.n_users(day), world.config.rows_per_history
    n_histories = -(-n_rows // per_history)
    rng = generator(world.config.seed, stream, day)
    user_id = rng.permutation(n_users)[:n_histories] + 1
    per_user, remainder = divmod(n_histories, len(user_id))
    rows_of_user = per_history * (per_user + (np.arange(len(user_id)) < remainder))
    # The last history may have fewer rows.
    rows_of_user[-1] -= n_histories * per_history - n_rows
    n_parts = max(-(-len(user_id) // _USERS_PER_PART), min(_PARTS, len(user_id)))
    favourites, parts = world.favourites, []
    for users in np.array_split(np.arange(len(user_id)), n_parts):
        chosen = favourites[user_id[users] - 1]
        share = world.config.new_item_row_share
        rows = behaviour.draw(rows_of_user[users], chosen, share, rng)
        parts.append((user_id[users], rows))
    return parts


def _truth(name: str, rows: Impressions) -> pa.Table:
    columns = [[name] * len(rows), rows.probability, rows.label]
    return pa.table(columns, names=["split", "probability", "label"])


def _write_table(path: Path, table: pa.Table, options: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, **options)


def _days_so_far(config: SampleConfig, folder: Path) -> int:
    """Return how many days are complete; raises `SettingsError` if they have other settings."""
    paths, timeline = SamplePaths(folder), Timeline(config)
    if paths.summary.is_file():
        written = json.loads(paths.summary.read_text(encoding="utf-8"))["config"]
        wanted = config.to_mapping()
        others = [name for name in wanted if name != "days" and written.get(name) != wanted[name]]
        if others or written.get("days") is None:
            raise SettingsError(
                f"{folder} holds a sample dataset with other settings "
                f"({', '.join(others) or 'days'}). Fix: name a new folder"
            )
    day = 0
    while (paths.logs / f"day={timeline.date(day)}" / MARKER).is_file():
        day += 1
    return day


def _summary(config: SampleConfig, n_days: int, paths: SamplePaths) -> dict[str, Any]:
    timeline = Timeline(config)
    days = [_day_summary(day, timeline, paths) for day in range(n_days)]
    return {
        "version": SAMPLE_VERSION,
        "config": {**config.to_mapping(), "days": n_days - WINDOW_DAYS},
        "n_items": timeline.n_items(n_days - 1),
        "n_users": timeline.n_users(n_days - 1),
        "last_day": days[-1]["day"],
        "days": days,
    }


def _day_summary(day: int, timeline: Timeline, paths: SamplePaths) -> dict[str, Any]:
    date = timeline.date(day)
    truth = read_truth(paths.root, [date])
    label, probability = (truth.column(name).to_numpy() for name in ("label", "probability"))
    try:
        best = auc(label, probability)
    except MetricError:  # a tiny day may have a single class
        best = float("nan")
    return {
        "day": date,
        "n_rows": len(label),
        "n_new_items": timeline.n_items(day) - timeline.n_items(day - 1),
        "label_rate": float(label.mean()),
        "best_possible_auc": best,
    }

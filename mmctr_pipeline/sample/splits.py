"""Write the splits of the sample dataset, chunk by chunk, and the true click probabilities."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.metrics import MetricError, auc
from mmctr_pipeline.sample import tables
from mmctr_pipeline.sample.behaviour import Behaviour, Impressions
from mmctr_pipeline.sample.catalogue import Catalogue, Stream, generator
from mmctr_pipeline.sample.config import SampleConfig, SamplePaths
from mmctr_pipeline.sample.tastes import draw_favourites

logger = logging.getLogger(__name__)

_USERS_PER_CHUNK = 12_500


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Rows of one split in the order of its file, `(N,)`, and counts of users and histories."""

    item_id: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    n_users: int
    n_histories: int


def write_splits(paths: SamplePaths, catalogue: Catalogue, config: SampleConfig) -> dict[str, Any]:
    """Write the splits, `item_seq.parquet` and the truth; return counts, shares and AUCs.

    The truth has one row per valid and test row: split, position in the file, true probability,
    drawn label.
    """
    behaviour = Behaviour(catalogue, config)
    options, schema = tables.LIST_OPTIONS, tables.SEQUENCE_SCHEMA
    drawn = {}
    with pq.ParquetWriter(paths.item_seq, schema, **options) as sequences:
        for name, user_id in _share_out_users(config).items():
            chunks = _draw_chunks(name, user_id, behaviour, config)
            drawn[name] = _write_split(name, chunks, paths.split(name), catalogue, sequences)
    truth = [_truth(name, drawn[name]) for name in ("valid", "test")]
    pq.write_table(pa.concat_tables(truth), paths.truth)

    numbers: dict[str, Any] = {}
    for name, rows in drawn.items():
        numbers[f"n_{name}_rows"] = len(rows.item_id)
        numbers[f"n_{name}_users"] = rows.n_users
        numbers[f"n_{name}_histories"] = rows.n_histories
        numbers[f"{name}_label_rate"] = float(rows.label.mean())
        numbers[f"{name}_cold_row_share"] = float(catalogue.cold[rows.item_id - 1].mean())
    valid = drawn["valid"]
    times_shown = np.bincount(drawn["train"].item_id, minlength=len(catalogue) + 1)
    numbers["best_possible_auc"] = _auc_or_nan(valid.label, valid.probability)
    numbers["popularity_auc"] = _auc_or_nan(valid.label, times_shown[valid.item_id])
    return numbers


def _auc_or_nan(label: np.ndarray, score: np.ndarray) -> float:
    try:
        return auc(label, score)
    except MetricError:  # tiny splits may have a single class
        return float("nan")


def _share_out_users(config: SampleConfig) -> dict[str, np.ndarray]:
    """Return the user ids of each split: in proportion to its rows, but at least one."""
    others = generator(config.seed, Stream.USERS).permutation(config.n_users - 1) + 1
    # The largest id always has rows, so that embedding tables have the configured size.
    user_id = np.concatenate([[config.n_users], others])
    n_rows = np.array([config.n_train_rows, config.n_valid_rows, config.n_test_rows])
    ends = np.rint(np.cumsum(n_rows) / n_rows.sum() * config.n_users).astype(np.int64)
    n_so_far = np.arange(1, len(ends) + 1)
    # Keep at least one user for each split, also for the splits that follow.
    ends = np.clip(ends, n_so_far, config.n_users - len(ends) + n_so_far)
    return dict(zip(("train", "valid", "test"), np.split(user_id, ends[:-1]), strict=True))


def _draw_chunks(
    name: str, user_id: np.ndarray, behaviour: Behaviour, config: SampleConfig
) -> Iterator[tuple[np.ndarray, Impressions]]:
    """Yield the rows of a split in chunks: the ids of some users, and all rows of these users."""
    n_rows = getattr(config, f"n_{name}_rows")
    cold_row_share = 0.0 if name == "train" else config.cold_row_share
    n_histories = -(-n_rows // config.rows_per_history)
    # If there are more users than histories, the last users have no rows.
    user_id = user_id[:n_histories]
    per_user, remainder = divmod(n_histories, len(user_id))
    histories_of_user = per_user + (np.arange(len(user_id)) < remainder)
    rows_of_user = config.rows_per_history * histories_of_user
    # The last history may have fewer rows.
    rows_of_user[-1] -= n_histories * config.rows_per_history - n_rows
    progress = Progress(logger, f"{name}.parquet", n_rows)
    for part, start in enumerate(range(0, len(user_id), _USERS_PER_CHUNK)):
        users = slice(start, start + _USERS_PER_CHUNK)
        rng = generator(config.seed, Stream[name.upper()], part)
        favourites = draw_favourites(len(rows_of_user[users]), rng)
        rows = behaviour.draw(rows_of_user[users], favourites, cold_row_share, rng)
        yield user_id[users], rows
        progress.advance(len(rows))


def _write_split(
    name: str,
    chunks: Iterator[tuple[np.ndarray, Impressions]],
    path: Path,
    catalogue: Catalogue,
    sequences: pq.ParquetWriter,
) -> _Drawn:
    schema = tables.TEST_SCHEMA if name == "test" else tables.LABELLED_SCHEMA
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_rows = n_users = n_histories = 0
    with pq.ParquetWriter(path, schema, **tables.LIST_OPTIONS) as writer:
        for user_id, rows in chunks:
            first_row_id = n_rows + 1 if name == "test" else None
            writer.write_batch(tables.impression_batch(rows, user_id, catalogue, first_row_id))
            sequences.write_batch(tables.sequence_batch(rows, user_id))
            columns.append((rows.item_id.astype(np.int32), rows.probability, rows.label))
            n_rows += len(rows)
            n_users += len(user_id)
            n_histories += len(rows.histories)
    item_id, probability, label = (np.concatenate(column) for column in zip(*columns, strict=True))
    return _Drawn(item_id, probability, label, n_users, n_histories)


def _truth(name: str, drawn: _Drawn) -> pa.Table:
    n_rows = len(drawn.label)
    columns = [[name] * n_rows, np.arange(n_rows), drawn.probability, drawn.label]
    return pa.table(columns, names=["split", "row", "probability", "label"])

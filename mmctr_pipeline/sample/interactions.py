"""Writes the splits of the sample dataset chunk by chunk, and the truth behind their labels."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.sample import tables
from mmctr_pipeline.sample.behaviour import Behaviour, Impressions
from mmctr_pipeline.sample.catalogue import Catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.paths import SamplePaths
from mmctr_pipeline.sample.streams import Stream, generator

logger = logging.getLogger(__name__)

TRUTH_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("probability", pa.float64()),
        ("label", pa.int64()),
    ]
)

_USERS_PER_CHUNK = 12_500


@dataclasses.dataclass(frozen=True)
class _Split:
    """One split: its users, its number of rows, and the share of rows with a cold target."""

    name: str
    stream: Stream
    user_id: np.ndarray
    n_rows: int
    cold_row_share: float


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """What was drawn for one split, in the order of its file; arrays have length N."""

    item_id: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    n_users: int
    n_histories: int


def write_interactions(
    paths: SamplePaths, catalogue: Catalogue, config: SampleConfig
) -> dict[str, Any]:
    """Write the splits, `item_seq.parquet` and the truth; return counts, shares and AUCs.

    The truth has one row per valid and test row: split, position in the file, true probability,
    drawn label.
    """
    behaviour = Behaviour(catalogue, config)
    drawn = {}
    options, schema = tables.LIST_OPTIONS, tables.SEQUENCE_SCHEMA
    with pq.ParquetWriter(paths.item_seq, schema, **options) as sequences:
        for split in _plan(config):
            chunks = _draw_chunks(split, behaviour, config)
            path = paths.split(split.name)
            drawn[split.name] = _write_split(path, split, chunks, catalogue, sequences)
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
    numbers["best_possible_auc"] = rank_auc(valid.probability, valid.label)
    numbers["popularity_auc"] = rank_auc(times_shown[valid.item_id], valid.label)
    return numbers


def rank_auc(score: np.ndarray, label: np.ndarray) -> float:
    """Return the area under the ROC curve of `(N,)` scores for `(N,)` labels; ties count half.

    NaN where one of the two labels is absent.
    """
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]
    n_positive = int(label.sum())
    n_pairs = n_positive * (len(label) - n_positive)
    if n_pairs == 0:
        return float("nan")
    return float((rank[label == 1].sum() - n_positive * (n_positive + 1) / 2) / n_pairs)


def _plan(config: SampleConfig) -> Iterator[_Split]:
    """Share out the users in proportion to the rows, one at least; no user is in two splits."""
    sizes = {
        "train": (Stream.TRAIN, config.n_train_rows, 0.0),
        "valid": (Stream.VALID, config.n_valid_rows, config.cold_row_share),
        "test": (Stream.TEST, config.n_test_rows, config.cold_row_share),
    }
    others = generator(config.seed, Stream.USERS).permutation(config.n_users - 1) + 1
    # The largest id has rows in any case: tables of embeddings then have the size that is asked.
    user_id = np.concatenate([[config.n_users], others])
    n_rows = np.array([size[1] for size in sizes.values()])
    ends = np.rint(np.cumsum(n_rows) / n_rows.sum() * config.n_users).astype(np.int64)
    n_so_far = np.arange(1, len(ends) + 1)
    # One user at least for each split so far, and as many left as splits are to come.
    ends = np.clip(ends, n_so_far, config.n_users - len(ends) + n_so_far)
    starts = np.concatenate([[0], ends[:-1]])
    for (name, (stream, rows, cold_row_share)), start, end in zip(
        sizes.items(), starts, ends, strict=True
    ):
        yield _Split(name, stream, user_id[start:end], rows, cold_row_share)


def _draw_chunks(
    split: _Split, behaviour: Behaviour, config: SampleConfig
) -> Iterator[tuple[np.ndarray, Impressions]]:
    """Yield the ids of some users and all their rows, until the split has its number of rows."""
    n_histories = -(-split.n_rows // config.rows_per_history)
    # Where the users outnumber the histories, the last users have no rows at all.
    user_id = split.user_id[:n_histories]
    per_user, more = divmod(n_histories, len(user_id))
    rows_of_user = config.rows_per_history * (per_user + (np.arange(len(user_id)) < more))
    rows_of_user[-1] -= n_histories * config.rows_per_history - split.n_rows
    for part, start in enumerate(range(0, len(user_id), _USERS_PER_CHUNK)):
        users = slice(start, start + _USERS_PER_CHUNK)
        rng = generator(config.seed, split.stream, part)
        yield user_id[users], behaviour.draw(rows_of_user[users], split.cold_row_share, rng)


def _write_split(
    path: Path,
    split: _Split,
    chunks: Iterator[tuple[np.ndarray, Impressions]],
    catalogue: Catalogue,
    sequences: pq.ParquetWriter,
) -> _Drawn:
    progress = Progress(logger, f"{split.name}.parquet", split.n_rows)
    schema = tables.TEST_SCHEMA if split.name == "test" else tables.LABELLED_SCHEMA
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_rows = n_users = n_histories = 0
    with pq.ParquetWriter(path, schema, **tables.LIST_OPTIONS) as writer:
        for user_id, rows in chunks:
            if split.name == "test":
                writer.write_batch(tables.unlabelled_batch(rows, user_id, catalogue, n_rows + 1))
            else:
                writer.write_batch(tables.labelled_batch(rows, user_id, catalogue))
            sequences.write_batch(tables.sequence_batch(rows, user_id))
            kept.append((rows.item_id.astype(np.int32), rows.probability, rows.label))
            n_rows += len(rows)
            n_users += len(user_id)
            n_histories += len(rows.histories)
            progress.advance(len(rows))
    item_id, probability, label = (np.concatenate(column) for column in zip(*kept, strict=True))
    return _Drawn(item_id, probability, label, n_users, n_histories)


def _truth(name: str, drawn: _Drawn) -> pa.Table:
    n_rows = len(drawn.label)
    columns = [[name] * n_rows, np.arange(n_rows), drawn.probability, drawn.label]
    return pa.table([pa.array(column) for column in columns], schema=TRUTH_SCHEMA)

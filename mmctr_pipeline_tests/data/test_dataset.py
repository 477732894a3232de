"""A dataset read from disk equals the one that was written."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ragged import Ragged


def _split(item_id: list[int], **label_or_row_id: list[int]) -> Split:
    n_rows = len(item_id)
    return Split(
        user_id=np.arange(1, n_rows + 1, dtype=np.int32),
        item_id=np.array(item_id, np.int32),
        history=np.zeros(n_rows, np.int32),
        likes_level=np.arange(n_rows, dtype=np.int8),
        views_level=np.arange(n_rows, dtype=np.int8),
        **{name: np.array(values) for name, values in label_or_row_id.items()},
    )


def _dataset() -> CtrDataset:
    items = ItemTable(
        ids=np.array([1, 2, 4]),
        item_id=np.array([1, 2, 4], np.int32),
        title=pa.array(["one", None, "四 🎬"]),
        tags=Ragged.from_lists([[1], [], [2, 3]]),
        likes_level=np.array([0, 5, 10], np.int8),
        views_level=np.array([1, 2, 3], np.int8),
    )
    return CtrDataset(
        train=_split([1, 2, 4], label=[1, 0, 1]),
        valid=_split([2, 4], label=[0, 1]),
        test=_split([4, 1], row_id=[2**40, 3]),
        items=items,
        histories=Ragged.from_lists([[1, 2]]),
        fingerprint="f" * 64,
        provenance={"train": {"n_rows": 3}, "files": ["a"]},
    )


def test_take_keeps_rows_together() -> None:
    split = _dataset().train.take(np.array([2, 0]))
    assert split.item_id.tolist() == [4, 1]
    assert split.user_id.tolist() == [3, 1]
    assert split.label is not None
    assert split.label.tolist() == [1, 1]
    assert split.row_id is None
    assert len(_dataset().train.take(np.array([True, False, True]))) == 2


def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    dataset = _dataset()
    dataset.write(tmp_path)
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 3
    again = CtrDataset.read(tmp_path)
    for name, split in dataset.splits.items():
        for field in dataclasses.fields(Split):
            before, after = getattr(split, field.name), getattr(again.splits[name], field.name)
            if before is None:
                assert after is None
            else:
                assert after.dtype == before.dtype
                assert after.tolist() == before.tolist()
    assert again.items.title.to_pylist() == dataset.items.title.to_pylist()
    assert [tags.tolist() for tags in again.items.tags] == [[1], [], [2, 3]]
    assert again.items.likes_level.dtype == np.int8
    assert [history.tolist() for history in again.histories] == [[1, 2]]
    assert (again.fingerprint, again.provenance) == (dataset.fingerprint, dataset.provenance)


def test_lengths_of_splits_and_items() -> None:
    dataset = _dataset()
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 3,
        "valid": 2,
        "test": 2,
    }
    assert len(dataset.items) == 3

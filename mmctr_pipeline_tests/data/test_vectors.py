"""Vector tables are joined by id, never by position."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.vectors import VectorTable


def _table() -> VectorTable:
    return VectorTable(
        item_id=np.array([2, 5, 9], np.int32),
        vectors=np.array([[1, 2], [0, 0], [5, 6]], np.float32),
        present=np.array([True, False, True]),
        identity="encoder:abc",
        provenance={"n_items": 3},
    )


def test_vectors_are_aligned_by_id_and_missing_ones_are_zero() -> None:
    aligned = _table().aligned_to(np.array([1, 2, 5, 7, 9, 10]))
    assert aligned.item_id.tolist() == [1, 2, 5, 7, 9, 10]
    assert aligned.vectors.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0], [5, 6], [0, 0]]
    assert aligned.present.tolist() == [False, True, False, False, True, False]
    assert aligned.identity == "encoder:abc"


def test_vectors_are_aligned_by_string_ids() -> None:
    table = dataclasses.replace(_table(), item_id=np.array(["", "a", "é"]))
    aligned = table.aligned_to(np.array(["a", "ab", "é"]))
    assert aligned.vectors.tolist() == [[0, 0], [0, 0], [5, 6]]
    assert aligned.item_id.tolist() == ["a", "ab", "é"]
    assert not table.aligned_to(np.array([2, 5])).present.any()
    assert not _table().aligned_to(np.array(["2", "5"])).present.any()


@pytest.mark.parametrize(
    "ids", [["", "a", " é\n"], [2, 2**40, 2**63 - 1]], ids=["strings", "large integers"]
)
def test_ids_of_any_kind_survive_a_file(tmp_path: Path, ids: list[Any]) -> None:
    table = dataclasses.replace(_table(), item_id=np.array(sorted(ids)))
    pq.write_table(table.to_arrow(), tmp_path / "v.parquet")
    again = VectorTable.read(tmp_path / "v.parquet")
    assert again.item_id.tolist() == sorted(ids)
    assert again.content_hash() == table.content_hash() != _table().content_hash()


def test_aligning_an_empty_table_leaves_every_item_without_a_vector() -> None:
    empty = VectorTable(np.zeros(0, np.int32), np.zeros((0, 2), np.float32), np.zeros(0, bool), "x")
    aligned = empty.aligned_to(np.array([1, 2]))
    assert aligned.vectors.tolist() == [[0, 0], [0, 0]]
    assert not aligned.present.any()
    assert len(_table().aligned_to(np.array([], np.int32)).item_id) == 0


def test_round_trip_through_parquet(tmp_path: Path) -> None:
    table = _table()
    pq.write_table(table.to_arrow(), tmp_path / "v.parquet")
    again = VectorTable.read(tmp_path / "v.parquet")
    assert again.item_id.tolist() == [2, 5, 9]
    assert again.vectors.tolist() == table.vectors.tolist()
    assert again.vectors.dtype == np.float32
    assert again.present.tolist() == [True, False, True]
    assert (again.identity, again.provenance, again.dim) == ("encoder:abc", {"n_items": 3}, 2)


@pytest.mark.parametrize("ids", [[5, 2, 9], [2, 2, 9]])
def test_ids_must_be_distinct_and_ascending(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        VectorTable(np.array(ids, np.int32), np.zeros((3, 2), np.float32), np.ones(3, bool), "x")


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="3 ids"):
        VectorTable(np.arange(3, dtype=np.int32), np.zeros((2, 2)), np.ones(3, bool), "x")
    with pytest.raises(ValueError, match="present of shape"):
        VectorTable(np.arange(3, dtype=np.int32), np.zeros((3, 2)), np.ones(2, bool), "x")

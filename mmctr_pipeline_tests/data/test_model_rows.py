"""Ids of a dataset are mapped to the rows of a model that was trained on another dataset."""

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.model_rows import OtherIdsError, in_model_rows
from mmctr_pipeline.data.ragged import Ragged


def _dataset(items: list[object], users: list[object] | None = None) -> CtrDataset:
    """Return a dataset whose splits have one row for each item.

    The users of the rows are 1, 2, ..., and the history of each row holds all items.
    """
    item_map = IdMap.from_ids(np.array(items))
    n = len(items)
    zeros = np.zeros(n, np.int8)
    split = Split(
        user_id=np.arange(1, n + 1, dtype=np.int32),
        item_id=item_map.rows,
        history=np.zeros(n, np.int32),
        likes_level=zeros,
        views_level=zeros,
        row_id=np.arange(n),
    )
    table = ItemTable(
        ids=item_map.ids,
        item_id=item_map.rows,
        title=pa.array([None] * n, pa.string()),
        tags=Ragged.from_lists([[]] * n),
        likes_level=zeros,
        views_level=zeros,
    )
    return CtrDataset(
        train=split,
        valid=split,
        test=split,
        items=table,
        histories=Ragged.from_lists([item_map.rows.tolist()]),
        fingerprint="f",
        users=None if users is None else IdMap(np.array(users), is_identity=False),
    )


def _model_rows(
    dataset: CtrDataset, maps: dict[str, IdMap], n_items: int, n_users: int
) -> tuple[list[int], list[int], list[int]]:
    """Return the model's table rows for the items, the histories and the users of test."""
    items, histories, split = in_model_rows(dataset, dataset.test, maps, n_items, n_users)
    assert split.item_id.tolist() == items.item_id.tolist() == histories.values.tolist()
    assert items.item_id.dtype == histories.values.dtype == split.user_id.dtype == np.int32
    assert items.ids.tolist() == dataset.items.ids.tolist()
    return items.item_id.tolist(), histories.values.tolist(), split.user_id.tolist()


def test_a_dataset_with_the_ids_of_the_model_is_unchanged() -> None:
    for dataset in (_dataset([1, 2, 3]), _dataset(["a", "b"], ["u", "v"])):
        same = in_model_rows(dataset, dataset.test, dataset.id_maps, 9, 9)
        assert same == (dataset.items, dataset.histories, dataset.test)


def test_known_ids_keep_the_rows_of_the_model_and_new_ones_come_after() -> None:
    model = {
        "item_id": IdMap(np.array(["b", "d"]), is_identity=False),
        "user_id": IdMap(np.array(["v", "x"]), is_identity=False),
    }
    dataset = _dataset(["a", "b", "c", "d"], ["u", "v", "w", "x"])
    items, _, users = _model_rows(dataset, model, n_items=3, n_users=3)
    assert items == [3, 1, 4, 2]
    assert users == [3, 1, 4, 2]


def test_a_model_whose_ids_are_rows_reads_sparse_ids() -> None:
    # Id 2e9 joined the catalogue 1, 2, 4. This moved item 4 to row 3; in the model it has row 4.
    dataset = _dataset([1, 2, 4, 2_000_000_000])
    assert dataset.items.item_id.tolist() == [1, 2, 3, 4]
    items, _, users = _model_rows(dataset, {}, n_items=5, n_users=5)
    assert items == [1, 2, 4, 5]
    assert users == [1, 2, 3, 4]


def test_a_model_of_sparse_ids_reads_ids_that_are_rows() -> None:
    model = {
        "item_id": IdMap(np.array([2, 4, 2_000_000_000]), is_identity=False),
        "user_id": IdMap(np.array([3, 2_000_000_000]), is_identity=False),
    }
    items, _, users = _model_rows(_dataset([1, 2, 4]), model, n_items=4, n_users=3)
    assert items == [4, 1, 2]
    assert users == [3, 4, 1]


@pytest.mark.parametrize("column", ["item_id", "user_id"])
def test_string_ids_for_a_model_of_integers_or_the_reverse_are_refused(column: str) -> None:
    texts = IdMap(np.array(["a"]), is_identity=False)
    integers = _dataset([5_000, 2_000_000_000], [10**9, 10**10])
    with pytest.raises(OtherIdsError, match=f"strings as {column}, but this dataset has integers"):
        in_model_rows(integers, integers.test, integers.id_maps | {column: texts}, 3, 3)
    strings = _dataset(["a", "b"], ["u", "v"])
    maps = {name: id_map for name, id_map in strings.id_maps.items() if name != column}
    with pytest.raises(OtherIdsError, match=f"integers as {column}, but this dataset has strings"):
        in_model_rows(strings, strings.test, maps, 3, 3)

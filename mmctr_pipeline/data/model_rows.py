"""Give users and items the table rows that they have in a model trained on another dataset."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.ragged import Ragged


class OtherIdsError(ValueError):
    """A dataset has ids of another kind than a model; the message says which."""


def in_model_rows(
    dataset: CtrDataset,
    split: Split,
    id_maps: Mapping[str, IdMap],
    n_items: int,
    n_users: int,
) -> tuple[ItemTable, Ragged, Split]:
    """Return items, histories and `split` with the model's table rows of their users and items.

    Ids that the model lacks get table rows after its own, which models treat as unknown. Raises
    `OtherIdsError` if the model has integer ids and the dataset strings, or the other way round.

    Parameters
    ----------
    dataset
        The items, the histories and the ids.
    split
        Rows of this dataset.
    id_maps
        `CtrDataset.id_maps` of the dataset that the model was trained on.
    n_items, n_users
        Numbers of rows of the model's item table and of its user table.
    """
    items, histories = dataset.items, dataset.histories
    own = dataset.id_maps
    if own.keys() == id_maps.keys() and all(
        np.array_equal(own[name].ids, id_maps[name].ids) for name in own
    ):
        return items, histories, split
    item_rows = model_rows("item_id", items.ids, id_maps.get("item_id"), n_items)
    item_I = _by_row(items.item_id, item_rows)
    users = dataset.users or _all_rows(split.user_id)
    user_U = _by_row(users.rows, model_rows("user_id", users.ids, id_maps.get("user_id"), n_users))
    return (
        dataclasses.replace(items, item_id=item_rows),
        Ragged(item_I[histories.values], histories.offsets),
        dataclasses.replace(split, item_id=item_I[split.item_id], user_id=user_U[split.user_id]),
    )


def _all_rows(rows: np.ndarray) -> IdMap:
    return IdMap(np.arange(1, int(rows.max(initial=0)) + 1), is_identity=True)


def model_rows(name: str, ids: np.ndarray, model: IdMap | None, n_rows: int) -> np.ndarray:
    """Return the model's row of each id, `(M,) int32`; new ids get the rows from `n_rows` on.

    Raises `OtherIdsError`.

    Parameters
    ----------
    name
        The column, for errors.
    ids
        The ids, `(M,)` integers or strings.
    model
        The ids of the model's table, or None if they are their own rows.
    n_rows
        Number of rows of the model's table.
    """
    kinds = ("integers", "strings")
    own, expected = ids.dtype.kind == "U", model is not None and model.ids.dtype.kind == "U"
    if own != expected:
        raise OtherIdsError(
            f"the model was trained on {kinds[expected]} as {name}, but this dataset has "
            f"{kinds[own]}: materialise trained_model on this dataset, or score a dataset with "
            f"{kinds[expected]}"
        )
    rows = np.where(ids < n_rows, ids, 0) if model is None else model.look_up(ids)
    is_new = rows == 0
    rows[is_new] = n_rows + np.arange(np.count_nonzero(is_new))
    return rows.astype(np.int32)


def _by_row(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return a table that gives the new row for each old row; the padding stays row 0."""
    table = np.zeros(int(old.max(initial=0)) + 1, np.int32)
    table[old] = new
    return table

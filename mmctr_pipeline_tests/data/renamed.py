"""Copies of a data set in which users and items have other ids, in the same order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.data.ragged import list_offsets, numpy_view

FILES = ("train", "valid", "test", "item_feature", "item_info")

Rename = Callable[[np.ndarray], pa.Array]
"""Turns ids `(N,)` that count from 1 into other ids, and 0 into the padding of those ids."""


def unchanged(rank: np.ndarray) -> pa.Array:
    return pa.array(rank)


def sparse(rank: np.ndarray) -> pa.Array:
    """Integers above 2**62, with gaps."""
    large = 2**62 + rank * 1_000_003
    # Every third gap is smaller than the others.
    return pa.array(np.where(rank == 0, 0, np.where(rank % 3 == 1, large, large + rank)))


def strings(rank: np.ndarray) -> pa.Array:
    """Strings that are not stripped and not ASCII, ordered like the numbers."""
    return pa.array(["" if number == 0 else f" é{number:09d} " for number in rank.tolist()])


def renamed(source: Path, target: Path, users: Rename, items: Rename) -> DataLayout:
    """Write the tables of a data set with other ids.

    Its user ids may have gaps, so `users` gets their ranks, which count from 1.
    """
    layout = find_data(source)
    target.mkdir(parents=True)
    tables = {name: pq.read_table(getattr(layout, name)) for name in FILES}
    user_id = [tables[name]["user_id"].to_numpy() for name in ("train", "valid", "test")]
    known = np.unique(np.concatenate(user_id))
    for name, table in tables.items():
        for number, column in enumerate(table.column_names):
            array = table[column].combine_chunks()
            if column == "user_id":
                array = users(np.searchsorted(known, numpy_view(array)) + 1)
            elif column == "item_id":
                array = items(numpy_view(array))
            elif column == "item_seq":
                values = items(numpy_view(pc.list_flatten(array)))
                array = pa.LargeListArray.from_arrays(list_offsets(array), values)
            table = table.set_column(number, column, array)
        pq.write_table(table, target / f"{name}.parquet")
    return find_data(target)

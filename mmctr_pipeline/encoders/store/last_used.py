"""When each content of an encoder was last asked for: what pruning goes by."""

import datetime
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.encoders.store.shards import (
    KEY,
    DamagedFileError,
    damage_named,
    keys_from_arrow,
    keys_to_arrow,
)
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.locks import locked

logger = logging.getLogger(__name__)

LAST_USED = "last_used.parquet"

_SCHEMA = pa.schema([("content", pa.binary(32)), ("day", pa.date32())])


def record_use(folder: Path, contents: np.ndarray, day: datetime.date) -> None:
    """Note in an encoder's folder that `contents` (`(n,) KEY`) were used on `day`.

    A record that is damaged is named in the log and begun anew.
    """
    with locked(folder / f"{LAST_USED}.lock"):
        try:
            known, days = read_last_used(folder)
        except DamagedFileError as error:
            logger.warning(f"{error}; the record of last use begins anew")
            known, days = np.empty(0, KEY), np.empty(0, np.int32)
        both = np.concatenate([contents, known])
        both_days = np.concatenate([np.full(len(contents), day_number(day), np.int32), days])
        # Of a content that stands twice the first place is taken, which has the new day.
        merged, first = np.unique(both, return_index=True)
        if len(merged) > len(known) or not np.array_equal(both_days[first], days):
            write_last_used(folder, merged, both_days[first])


def read_last_used(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the contents, `(n,) KEY` ascending, and the `day_number` of each, `(n,) int32`.

    Both are empty where nothing was recorded; raises `DamagedFileError`.
    """
    path = folder / LAST_USED
    if not path.exists():
        return np.empty(0, KEY), np.empty(0, np.int32)
    with damage_named(path):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise DamagedFileError(path, "it is no record of last use")
            table = file.read()
        days = table.column("day").cast(pa.int32()).to_numpy().astype(np.int32)
        return keys_from_arrow(table.column("content")), days


def write_last_used(folder: Path, contents: np.ndarray, days: np.ndarray) -> None:
    """Write what `read_last_used` returns."""
    columns = [keys_to_arrow(contents), pa.array(days, pa.int32()).cast(pa.date32())]
    with atomic_write(folder / LAST_USED) as temporary:
        pq.write_table(
            pa.table(columns, schema=_SCHEMA),
            temporary,
            use_dictionary=["day"],
            write_page_checksum=True,
        )


def days_of(contents: np.ndarray, known: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the day of each of `contents`, `(n,) int32`, -1 where none is known."""
    if not len(known):
        return np.full(len(contents), -1, np.int32)
    position = np.minimum(np.searchsorted(known, contents), len(known) - 1)
    return np.where(known[position] == contents, days[position], -1).astype(np.int32)


def day_number(day: datetime.date) -> int:
    """Return the days from 1970-01-01 to `day`."""
    return (day - datetime.date(1970, 1, 1)).days

"""The day on which each content of an encoder was last requested; pruning goes by it."""

import datetime
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.encoders.store.shards import (
    KEY,
    DamagedFileError,
    keys_from_arrow,
    keys_to_arrow,
    naming_damage,
)
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.locks import locked

logger = logging.getLogger(__name__)

LAST_USED = "last_used.parquet"

_SCHEMA = pa.schema([("content", pa.binary(32)), ("day", pa.date32())])


def record_use(folder: Path, contents: np.ndarray, day: datetime.date) -> None:
    """Record in an encoder's folder that `contents` (`(n,) KEY`) were used on `day`.

    A damaged record is logged and replaced.
    """
    with locked(folder / f"{LAST_USED}.lock"):
        try:
            known, days = read_last_used(folder)
        except DamagedFileError as error:
            logger.warning(f"{error}; starting a new record of last use")
            known, days = np.empty(0, KEY), np.empty(0, "datetime64[D]")
        # Duplicates keep the first entry, which has the new day.
        merged, first = np.unique(np.concatenate([contents, known]), return_index=True)
        merged_days = np.concatenate([np.full(len(contents), np.datetime64(day)), days])[first]
        if len(merged) > len(known) or not np.array_equal(merged_days, days):
            write_last_used(folder, merged, merged_days)


def read_last_used(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the contents, `(n,) KEY` ascending, and the day of each, `(n,) datetime64[D]`.

    Both are empty if nothing was recorded. Raises `DamagedFileError`.
    """
    path = folder / LAST_USED
    if not path.exists():
        return np.empty(0, KEY), np.empty(0, "datetime64[D]")
    with naming_damage(path):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        if not table.schema.equals(_SCHEMA):
            raise DamagedFileError(path, "it is not a record of last use")
        return keys_from_arrow(table.column("content")), table.column("day").to_numpy()


def write_last_used(folder: Path, contents: np.ndarray, days: np.ndarray) -> None:
    """Write a record as `read_last_used` returns it."""
    table = pa.table([keys_to_arrow(contents), pa.array(days)], schema=_SCHEMA)
    with atomic_write(folder / LAST_USED) as temporary:
        pq.write_table(table, temporary, use_dictionary=["day"], write_page_checksum=True)

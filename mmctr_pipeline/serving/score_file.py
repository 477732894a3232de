"""Score the rows of a file of any length in bounded memory."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.schemas import ROW_ID
from mmctr_pipeline.data.tables import open_table
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import naming_write_errors
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.serving.rows import columns_of
from mmctr_pipeline.serving.scorer import Scorer

logger = logging.getLogger(__name__)

BATCH_ROWS = 65_536
"""Rows in memory at a time."""

KEYS = ("ID", "user_id", "item_id")
"""Columns of the rows that the scores repeat, where the rows have them."""


def score_file(scorer: Scorer, rows: Path, scores: Path) -> int:
    """Score each row of a file, in order, and return their number.

    The scores are a parquet file with the columns `KEYS` of the rows and `probability` (float32).
    It appears when it is complete. Raises `DataError` for rows that are not valid, and
    `WriteError`.

    Parameters
    ----------
    scorer
        The model.
    rows
        A parquet file, a folder of part files, or a CSV file in FuxiCTR's form, with the columns of
        `Scorer.score_batch`.
    scores
        The file to write.
    """
    with open_table(rows, []) as file:
        schema = file.schema
    columns = columns_of(schema) + ([ROW_ID] if "ID" in schema.names else [])
    with (
        open_table(rows, columns) as file,
        naming_write_errors(scores),
        atomic_write(scores) as path,
    ):
        fields = [file.schema.field(name) for name in KEYS if name in file.schema.names]
        found = pa.schema([*fields, pa.field("probability", pa.float32())])
        progress = Progress(logger, rows.name, file.n_rows)
        with pq.ParquetWriter(path, found) as writer:
            for batch in file.iter_batches(BATCH_ROWS, [column.name for column in columns]):
                probability = scorer.score_batch(batch, rows, progress.done)
                values = [batch.column(field.name) for field in fields]
                writer.write_batch(
                    pa.record_batch([*values, pa.array(probability, pa.float32())], schema=found)
                )
                progress.advance(len(batch))
    return progress.done

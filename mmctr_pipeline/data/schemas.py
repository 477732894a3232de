"""Columns of the files in the MMCTR layout, with their kinds and ranges."""

import dataclasses
from typing import Literal

import numpy as np

MAX_ID = 2**63 - 1
"""Largest user or item id. Rows of tables are int32; `data.ids` maps ids to rows."""

MAX_TAG = 1_000_000
"""Largest tag id. A tag is its own table row, so gaps between tags take memory."""

MAX_LEVEL = 10
"""Largest likes_level and views_level."""

MAX_TITLE_BYTES = 1 << 20
"""Longest title in UTF-8; a longer text is not a title, and would take minutes to tokenise."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `minimum` and `maximum` apply to each integer, also within lists.

    `int` accepts any integer type, `int_list` any list of integers, `text` any string type; `id`
    and `id_list` accept integers and strings. In a `nullable` column a value may be missing: the
    item then has no title, or no tags.
    """

    name: str
    kind: Literal["int", "int_list", "text", "id", "id_list"]
    minimum: int = 0
    maximum: int = MAX_ID
    nullable: bool = False

    @property
    def dtype(self) -> type[np.signedinteger]:
        """Smallest of int8, int32 and int64 that fits the range."""
        fits = (dtype for dtype in (np.int8, np.int32) if self.maximum <= np.iinfo(dtype).max)
        return next(fits, np.int64)


_ITEM_ID = Column("item_id", "id", minimum=1)
_ITEM_TAGS = Column("item_tags", "int_list", maximum=MAX_TAG, nullable=True)
_LEVELS = [Column(name, "int", maximum=MAX_LEVEL) for name in ("likes_level", "views_level")]
_ITEM_SEQ = Column("item_seq", "id_list")
_INTERACTION = (Column("user_id", "id", minimum=1), _ITEM_ID, _ITEM_SEQ, *_LEVELS)

LABELLED_COLUMNS: tuple[Column, ...] = (*_INTERACTION, Column("label", "int", maximum=1))
"""Columns of train and valid; `item_seq` is the history, oldest first, unpadded or left-padded."""

ROW_ID = Column("ID", "int", minimum=-(2**63), maximum=2**63 - 1)
"""Identifies a row of test in the submission. No two rows have the same value."""

TEST_COLUMNS: tuple[Column, ...] = (*_INTERACTION, ROW_ID)
"""Columns of test."""

HISTORY_COLUMNS: tuple[Column, ...] = (_ITEM_ID, _ITEM_SEQ)
"""Columns of train that its histories are read from."""

ITEM_COLUMNS: tuple[Column, ...] = (
    _ITEM_ID,
    Column("item_title", "text", nullable=True),
    _ITEM_TAGS,
    *_LEVELS,
)
"""Columns of item_feature that all recipes read. No two rows have the same `item_id`."""

VECTOR_FILE_COLUMNS: tuple[Column, ...] = (Column("item_id", "id"),)
"""Columns that a file with vectors has besides them; id 0 is the padding row of item_info."""

ITEM_INFO_COLUMNS: tuple[Column, ...] = (*VECTOR_FILE_COLUMNS, _ITEM_TAGS)
"""Columns of item_info that the table for FuxiCTR is written from."""

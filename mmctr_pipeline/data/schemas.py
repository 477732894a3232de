"""What each file of the MMCTR layout holds: columns, kinds, ranges."""

import dataclasses
from typing import Literal

MAX_ID = 2**31 - 1
"""Largest user, item or tag id: ids are kept as int32."""

MAX_LEVEL = 10
"""Largest likes_level and views_level."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `minimum` and `maximum` hold for each integer, in lists too.

    `int` takes any integer type, `int_list` any list of integers, `text` any string type. Where
    `nullable`, a missing value has a meaning: no title, no tags.
    """

    name: str
    kind: Literal["int", "int_list", "text"]
    minimum: int = 0
    maximum: int = MAX_ID
    nullable: bool = False


_USER_ID = Column("user_id", "int", minimum=1)
_ITEM_ID = Column("item_id", "int", minimum=1)
_LEVELS = (
    Column("likes_level", "int", maximum=MAX_LEVEL),
    Column("views_level", "int", maximum=MAX_LEVEL),
)
_INTERACTION = (_USER_ID, _ITEM_ID, Column("item_seq", "int_list"), *_LEVELS)

LABELLED_COLUMNS: tuple[Column, ...] = (*_INTERACTION, Column("label", "int", maximum=1))
"""Columns of train and valid; `item_seq` is the history, oldest first, padded left with 0."""

TEST_COLUMNS: tuple[Column, ...] = (
    *_INTERACTION,
    Column("ID", "int", minimum=-(2**63), maximum=2**63 - 1),
)
"""Columns of test; `ID` is distinct and names the row in the submission."""

ITEM_COLUMNS: tuple[Column, ...] = (
    _ITEM_ID,
    Column("item_title", "text", nullable=True),
    Column("item_tags", "int_list", nullable=True),
    *_LEVELS,
)
"""Columns of item_feature that every recipe reads; `item_id` is distinct."""

VECTOR_FILE_COLUMNS: tuple[Column, ...] = (Column("item_id", "int"),)
"""Columns of a file of given vectors, beside the vectors; id 0 is the padding row of item_info."""

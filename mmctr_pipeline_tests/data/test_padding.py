from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.padding import PaddingCheck, without_zeros
from mmctr_pipeline.data.schemas import Column
from mmctr_pipeline.data.validation import Block, DataError


def test_zeros_are_taken_off_wherever_they_stand() -> None:
    values = np.array([0, 0, 5, 0, 0, 0, 7, 0, 8])
    lists = without_zeros(values, np.array([0, 3, 5, 5, 9]))
    assert [one.tolist() for one in lists] == [[5], [], [], [7, 8]]
    assert lists.values.dtype == np.int32


def test_padding_is_checked_across_blocks() -> None:
    column = Column("item_seq", "int_list")
    check = PaddingCheck()
    check.check(np.array([1, 2, 3]), np.array([0, 1, 3]), Block(Path("f"), column, 0))
    with pytest.raises(DataError, match="row 5 is padded") as error:
        check.check(np.array([0, 3]), np.array([0, 2]), Block(Path("f"), column, 5))
    assert error.value.row == 1


def test_a_zero_at_the_start_of_a_list_is_not_taken_for_a_hole() -> None:
    values = np.array([1, 2, 0, 3, 0, 0, 0, 4])
    offsets = np.array([0, 2, 4, 6, 8])
    block = Block(Path("f"), Column("item_seq", "int_list"))
    PaddingCheck().check(values, offsets, block)
    # As one list the same values do have holes.
    with pytest.raises(DataError):
        PaddingCheck().check(values, np.array([0, 8]), block)


def test_a_long_history_is_shortened_in_the_message(tmp_path: Path) -> None:
    block = Block(tmp_path, Column("item_seq", "int_list"))
    values = np.array([1] * 99 + [0])
    with pytest.raises(DataError) as error:
        PaddingCheck().check(values, np.array([0, 100]), block)
    assert "88 more" in str(error.value)
    assert len(str(error.value)) < 400


def test_an_entry_for_several_rows_is_named_by_its_first() -> None:
    column = Column("item_seq", "int_list")
    # Entries for the rows 10 to 13, 14, and 15 to 16 of the file.
    block = Block(Path("f"), column, first_row=10, starts=np.array([0, 4, 5, 7]))
    with pytest.raises(DataError, match="padded on the right") as error:
        PaddingCheck().check(np.array([0, 1, 1, 1, 1, 0]), np.array([0, 2, 4, 6]), block)
    assert error.value.row == 15
    with pytest.raises(DataError, match="row 14 is padded") as error:
        PaddingCheck().check(np.array([1, 1, 0, 1, 2]), np.array([0, 2, 4, 5]), block)
    assert error.value.row == 15

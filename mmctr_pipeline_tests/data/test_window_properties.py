"""Whatever is added after a day, the dataset of that day stays the same, byte for byte."""

import datetime
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mmctr_pipeline.data.build import build_dataset, read_test_ids, read_train_histories
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.day_data import write_candidates, write_day

Columns = dict[str, list[Any]]
START = datetime.date(2026, 2, 26)
N_DAYS = 5
"""Days before the later ones; some of them may have no rows."""


def _day(number: int) -> str:
    return str(START + datetime.timedelta(days=number))


@st.composite
def _rows(draw: st.DrawFn) -> Columns:
    """Draw the columns of one part, with labels of both classes."""
    n_rows = draw(st.integers(2, 4))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n_rows, max_size=n_rows))

    return {
        # Later days may have users between and after those of earlier days.
        "user_id": column(st.sampled_from([1, 2, 3, 10**6, 10**12])),
        "item_id": column(st.integers(1, 9)),
        "item_seq": column(st.lists(st.integers(1, 9), max_size=3)),
        "likes_level": column(st.integers(0, 10)),
        "views_level": column(st.integers(0, 10)),
        "label": [0, 1, *column(st.integers(0, 1))[2:]],
    }


_LATER = ["rows", "rows", "half a part", "temporary file", "empty folder", "unmarked rows"]
_days_before = st.dictionaries(
    st.integers(0, N_DAYS - 1), st.lists(_rows(), min_size=1, max_size=2), min_size=2
)
_days_after = st.dictionaries(
    st.integers(N_DAYS, N_DAYS + 4),
    st.tuples(st.sampled_from(_LATER), st.lists(_rows(), min_size=1, max_size=2)),
    min_size=1,
)


def _write(root: Path, day: str, parts: list[Columns], is_marked: bool) -> Path:
    # A list column without a value would have no type.
    lists = [pa.array(part["item_seq"], pa.list_(pa.int64())) for part in parts]
    typed = [{**part, "item_seq": values} for part, values in zip(parts, lists, strict=True)]
    return write_day(root, day, *typed, marked=is_marked)


def _write_later(root: Path, day: str, kind: str, parts: list[Columns]) -> None:
    """Write a day that comes after the dataset's, complete or in any state that a writer leaves."""
    if kind == "empty folder":
        (root / "interactions" / f"day={day}").mkdir()
        return
    folder = _write(root, day, parts, kind == "rows")
    if kind == "half a part":
        path = folder / "part-0.parquet"
        path.write_bytes(path.read_bytes()[:100])
    if kind == "temporary file":
        (folder / "_temporary").mkdir()
    if kind == "rows":
        write_candidates(root, day, ID=[1, 2])


def _contents(root: Path, config: DataConfig) -> dict[str, bytes]:
    """Return the files of the dataset of a day, its train histories and its test ids."""
    layout = find_data(root)
    with tempfile.TemporaryDirectory() as folder:
        build_dataset(layout, config).write(Path(folder))
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    histories = read_train_histories(layout, read_items(layout), config)
    files["histories of train"] = histories.values.tobytes() + histories.offsets.tobytes()
    return {**files, "test ids": read_test_ids(layout, config).tobytes()}


def _check(
    before: dict[int, list[Columns]],
    after: dict[int, tuple[str, list[Columns]]],
    is_marked: bool,
    config: dict[str, int],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        small_data.write(root / "item_feature.parquet", small_data.item_feature())
        for number, parts in before.items():
            _write(root, _day(number), parts, is_marked)
        if not is_marked:
            # Then the chosen day is complete because this later day has rows.
            write_day(root, _day(N_DAYS), marked=False)
        chosen = DataConfig(day=_day(max(before)), **config)
        write_candidates(root, _day(max(before)))
        expected = _contents(root, chosen)
        if not is_marked:
            shutil.rmtree(root / "interactions" / f"day={_day(N_DAYS)}")
            after = {**after, N_DAYS: ("rows", before[min(before)])}
        for number, (kind, parts) in after.items():
            event(kind)
            _write_later(root, _day(number), kind, parts)
        assert _contents(root, chosen) == expected


_arguments = given(
    before=_days_before,
    after=_days_after,
    is_marked=st.booleans(),
    config=st.fixed_dictionaries({"days": st.just(28), "min_valid_rows": st.integers(1, 2)}),
)
_QUICK = settings(max_examples=15, deadline=None, derandomize=True, database=None)


@_QUICK
@_arguments
def test_rows_and_days_added_after_a_day_do_not_change_its_dataset(**drawn: Any) -> None:
    _check(**drawn)


@pytest.mark.slow
@settings(_QUICK, max_examples=100)
@_arguments
def test_rows_and_days_added_after_a_day_do_not_change_its_dataset_on_more_examples(
    **drawn: Any,
) -> None:
    _check(**drawn)


def test_a_row_added_to_the_day_itself_changes_its_dataset(tmp_path: Path) -> None:
    """Without this test, the one above would also pass if the comparison never failed."""
    small_data.write(tmp_path / "item_feature.parquet", small_data.item_feature())
    for number in range(2):
        write_day(tmp_path, _day(number))
    write_candidates(tmp_path, _day(1))
    config = DataConfig(day=_day(1), min_valid_rows=1)
    before = _contents(tmp_path, config)
    write_day(tmp_path, _day(1), {**small_data.train(), "label": [1, 1, 0, 1]})
    changed = _contents(tmp_path, config)
    assert {name for name in before if before[name] != changed[name]} == {
        "valid.parquet",
        "histories.parquet",
    }

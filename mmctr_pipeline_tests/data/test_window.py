"""The window of logs by day: its train and valid days, its candidates, and what it refuses."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data import tables
from mmctr_pipeline.data.build import build_dataset, read_test_ids, read_train_histories
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data, find_interactions
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.day_data import (
    FIRST,
    FOURTH,
    SECOND,
    THIRD,
    write_candidates,
    write_day,
    write_days,
)


def _build(root: Path, **settings: object) -> CtrDataset:
    return build_dataset(find_data(root), DataConfig(**{"min_valid_rows": 1, **settings}))


def _days(dataset: CtrDataset) -> tuple[list[str], list[str]]:
    window = dataset.provenance["window"]
    return window["train_days"], window["valid_days"]


@pytest.mark.parametrize(
    ("settings", "train", "valid"),
    [
        ({}, [FIRST, SECOND, THIRD], [FOURTH]),
        ({"day": THIRD}, [FIRST, SECOND], [THIRD]),
        ({"days": 3}, [SECOND, THIRD], [FOURTH]),
        ({"valid_days": 2}, [FIRST, SECOND], [THIRD, FOURTH]),
        # A day has four rows.
        ({"min_valid_rows": 4}, [FIRST, SECOND, THIRD], [FOURTH]),
        ({"min_valid_rows": 5}, [FIRST, SECOND], [THIRD, FOURTH]),
        ({"min_valid_rows": 12}, [FIRST], [SECOND, THIRD, FOURTH]),
    ],
)
def test_the_settings_choose_the_days(
    settings: dict[str, object], train: list[str], valid: list[str], tmp_path: Path
) -> None:
    dataset = _build(write_days(tmp_path), **settings)
    assert _days(dataset) == (train, valid)
    assert (len(dataset.train), len(dataset.valid)) == (4 * len(train), 4 * len(valid))
    assert dataset.train_rows_by_day == dict.fromkeys(train, 4)
    assert len(dataset.last_valid_day) == 4


def test_rows_are_ordered_by_day_and_then_by_the_name_of_their_part(tmp_path: Path) -> None:
    root = write_days(tmp_path, SECOND, THIRD)
    parts = [
        {**small_data.train(), "likes_level": [number] * 4, "timestamp": [1.5] * 4}
        for number in (3, 1, 2)
    ]
    write_day(root, FIRST, *parts)
    assert _build(root).train.likes_level.tolist() == [*[3] * 4, *[1] * 4, *[2] * 4, 4, 5, 6, 7]


def test_the_widened_window_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_days(tmp_path, FIRST, SECOND, "2026-01-05")
    with caplog.at_level(logging.INFO):
        dataset = _build(root, min_valid_rows=5)
    assert _days(dataset) == ([FIRST], [SECOND, "2026-01-05"])
    assert dataset.first_valid_day == SECOND
    assert dataset.provenance["window"]["missing_days"] == [THIRD, FOURTH]
    assert (
        "window of 2026-01-05: train 2026-01-01 (1 day), valid 2026-01-02 to 2026-01-05 (2 days) "
        "with 8 rows (data.min_valid_rows asks for 5)"
    ) in caplog.messages
    assert f"days of the window without a folder: {THIRD}, {FOURTH}" in caplog.messages


@pytest.mark.parametrize(
    "settings", [{"min_valid_rows": 13}, {"days": 5, "valid_days": 4}, {"day": FIRST}]
)
def test_a_window_without_a_train_day_is_refused(
    settings: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="too few to leave a train day") as error:
        _build(write_days(tmp_path), **settings)
    assert error.value.file == tmp_path / "interactions"
    assert "data.min_valid_rows" in error.value.fix


def test_a_day_that_does_not_exist_is_refused_with_the_days_that_do(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no day=2025-12-31; it has 4 days, 2026-01-01 to"):
        _build(write_days(tmp_path), day="2025-12-31")


def test_a_day_of_data_with_splits_is_refused(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    assert _build(root).day == ""
    with pytest.raises(SettingsError, match=r"has no logs by day.*Fix: leave the day out"):
        _build(root, day=FIRST)


@pytest.mark.parametrize("day", ["2026-1-3", "20260103", "2026-02-30", "yesterday", ""])
def test_a_day_in_another_form_is_refused(day: str) -> None:
    with pytest.raises(SettingsError, match=r"DataConfig\.day .* a date such as 2026-11-03"):
        DataConfig(day=day)


def test_more_valid_days_than_days_are_refused() -> None:
    with pytest.raises(SettingsError, match="valid_days is 7; it must be less than days, 7"):
        DataConfig(days=7, valid_days=7)


def test_the_candidates_are_those_of_the_day(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    write_candidates(root, THIRD, ID=[77, 78])
    layout = find_data(root)
    assert read_test_ids(layout, DataConfig(day=THIRD)).tolist() == [77, 78]
    assert _build(root, day=THIRD).test.row_id.tolist() == [77, 78]
    assert _build(root).test.row_id.tolist() == [11, 10]


def test_candidates_may_be_plain_part_files_or_the_test_file(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    (root / "candidates").rename(root / "other")
    with pytest.raises(DataNotFoundError, match=r"test\.parquet not found"):
        find_data(root)
    path = small_data.write(root / "test.parquet", {**small_data.test(), "ID": [5, 6]})
    assert _build(root, day=THIRD).test.row_id.tolist() == [5, 6]
    (root / "candidates").mkdir()
    with pytest.raises(DataNotFoundError, match="found both"):
        find_data(root)
    path.rename(root / "candidates" / "part-0.parquet")
    assert _build(root, day=THIRD).test.row_id.tolist() == [5, 6]


def test_a_day_without_candidates_is_refused(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    (root / "candidates" / f"day={FOURTH}" / "part-0.parquet").unlink()
    with pytest.raises(DataError, match="no part file"):
        _build(root)
    (root / "candidates" / f"day={FOURTH}").rmdir()
    with pytest.raises(DataNotFoundError, match=f"candidates has no day={FOURTH}; it has 3 days"):
        _build(root)


def test_both_logs_by_day_and_splits_are_refused(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    small_data.write(root / "train.parquet", small_data.train())
    with pytest.raises(DataNotFoundError, match=r"found both .*interactions and .*train\.parquet"):
        find_data(root)


def test_the_splits_may_be_in_a_folder_named_interactions(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path / "interactions").parent
    assert find_data(root).train == root / "interactions" / "train.parquet"
    assert find_interactions(root) is None


def test_logs_by_day_are_found_one_folder_below(tmp_path: Path) -> None:
    root = write_days(tmp_path / "logs").parent
    assert find_interactions(root) == root / "logs" / "interactions"
    layout = find_data(root)
    assert layout.interactions == root / "logs" / "interactions"
    assert "interactions/day=* (4 days, 2026-01-01 to 2026-01-04)" in layout.description


def test_errors_name_the_part_of_the_day_and_its_row(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    broken = {**small_data.train(), "label": [0, 1, 7, 0]}
    folder = write_day(root, SECOND, small_data.train(), broken)
    with pytest.raises(DataError, match=r"7 is not in 0\.\.1") as error:
        _build(root)
    assert (error.value.file, error.value.row) == (folder / "part-1.parquet", 2)
    assert "row 10 if counted through all of interactions of the train days" in str(error.value)


def test_valid_days_of_one_class_are_refused(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    write_day(root, FOURTH, {**small_data.train(), "label": [0] * 4})
    with pytest.raises(DataError, match="all 4 labels are 0 in interactions of the valid days"):
        _build(root)


def test_a_learned_fusion_reads_only_the_histories_of_the_train_days(tmp_path: Path) -> None:
    root = write_days(tmp_path)
    for day, item in ((SECOND, 8), (THIRD, 9)):
        histories = [[0, 0, item], [0, item, 1], [0, 0, 1], [0, 0, 0]]
        write_day(root, day, {**small_data.train(), "item_seq": histories})
    layout = find_data(root)
    histories = read_train_histories(
        layout, read_items(layout), DataConfig(day=THIRD, min_valid_rows=1)
    )
    assert 8 in histories.values
    assert 9 not in histories.values


def test_more_parts_than_may_be_open_are_read_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_days(tmp_path)
    expected = _build(root)
    monkeypatch.setattr(tables, "_MAX_OPEN_PARTS", 1)
    dataset = _build(root)
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.train.item_id.tolist() == expected.train.item_id.tolist()


def test_a_part_that_is_replaced_while_it_is_closed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_day(tmp_path, FIRST, small_data.train(), small_data.train())
    monkeypatch.setattr(tables, "_MAX_OPEN_PARTS", 1)
    table = tables.Table(folder, tuple(sorted(folder.glob("*.parquet"))), "interactions")
    with tables.open_table(table, []) as file:
        replaced = pa.table({**small_data.train(), "label": [0, 1, 0, 0]})
        pq.write_table(replaced, folder / "part-1.parquet", compression="zstd")
        with pytest.raises(DataError, match="replaced while the data were read") as error:
            list(file.iter_batches(10, ["label"]))
    assert error.value.file == folder / "part-1.parquet"

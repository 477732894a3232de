"""The train dataset holds all rows of its files, and each distinct history once."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.build import build_dataset, read_train_histories
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_items
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data import small_data


def _build(root: Path) -> CtrDataset:
    return build_dataset(find_data(root))


def test_rows_keep_their_order_and_values(tmp_path: Path) -> None:
    dataset = _build(small_data.write_data(tmp_path))
    for name, split in dataset.splits.items():
        columns = getattr(small_data, name)()
        for column in ("user_id", "item_id", "likes_level", "views_level"):
            assert getattr(split, column).tolist() == columns[column]
        for row, padded in enumerate(columns["item_seq"]):
            history = dataset.histories[split.history[row]]
            assert history.tolist() == [item for item in padded if item]
    assert dataset.train.label is not None
    assert dataset.train.label.tolist() == [1, 0, 0, 1]
    assert dataset.train.row_id is None
    assert dataset.test.row_id is not None
    assert dataset.test.row_id.tolist() == [11, 10]
    assert dataset.test.label is None


def test_columns_have_compact_dtypes(tmp_path: Path) -> None:
    dataset = _build(small_data.write_data(tmp_path))
    for split in dataset.splits.values():
        assert split.user_id.dtype == split.item_id.dtype == split.history.dtype == np.int32
        assert split.likes_level.dtype == split.views_level.dtype == np.int8
    assert dataset.valid.label is not None
    assert dataset.valid.label.dtype == np.int8
    assert dataset.test.row_id is not None
    assert dataset.test.row_id.dtype == np.int64


def test_histories_are_stored_once_across_splits_in_order_of_first_use(tmp_path: Path) -> None:
    dataset = _build(small_data.write_data(tmp_path))
    assert [history.tolist() for history in dataset.histories] == [[1, 2], [3, 2, 1], [], [2]]
    assert dataset.train.history.tolist() == [0, 0, 1, 2]
    assert dataset.valid.history.tolist() == [1, 3]
    assert dataset.test.history.tolist() == [1, 3]


def test_ragged_and_padded_histories_give_the_same_dataset(tmp_path: Path) -> None:
    padded = _build(small_data.write_data(tmp_path / "padded"))
    ragged_files = {}
    for name in ("train", "valid", "test"):
        columns = getattr(small_data, name)()
        lists = [[item for item in row if item] for row in columns["item_seq"]]
        ragged_files[name] = {**columns, "item_seq": pa.array(lists, pa.list_(pa.int64()))}
    ragged = _build(small_data.write_data(tmp_path / "ragged", **ragged_files))
    assert ragged.histories.values.tolist() == padded.histories.values.tolist()
    assert ragged.train.history.tolist() == padded.train.history.tolist()
    assert ragged.fingerprint != padded.fingerprint


def test_large_row_ids_survive(tmp_path: Path) -> None:
    ids = [2**53 + 1, -(2**63)]
    dataset = _build(small_data.write_data(tmp_path, test={**small_data.test(), "ID": ids}))
    assert dataset.test.row_id is not None
    assert dataset.test.row_id.tolist() == ids


def test_provenance_describes_the_data(tmp_path: Path) -> None:
    facts = _build(small_data.write_data(tmp_path)).provenance
    assert facts["files"]["train"] == "train.parquet"
    assert facts["n_items"] == 9
    assert facts["n_distinct_histories"] == 4
    assert facts["train"]["n_rows"] == 4
    assert facts["train"]["share_positive"] == 0.5
    assert facts["train"]["share_empty_history"] == 0.25
    assert facts["train"]["mean_history_length"] == pytest.approx((2 + 2 + 3 + 0) / 4)
    assert facts["train"]["max_history_length"] == 3
    assert facts["train"]["share_target_in_history"] == 0.0
    # Valid has the users 2 and 3, of whom train has only 2. Valid has the targets 3 and 8, of
    # which only 3 is in the history of its row.
    assert facts["valid"]["share_users_in_train"] == 0.5
    assert facts["valid"]["share_target_in_history"] == 0.5
    # Train has items 4 to 7 as targets and 1 to 3 in histories, so 8 is cold in valid, 9 in test.
    assert facts["valid"]["n_cold_items"] == 1
    assert facts["valid"]["share_rows_with_cold_item"] == 0.5
    assert facts["test"]["n_cold_items"] == 1
    assert "share_positive" not in facts["test"]


def test_many_batches_equal_a_plain_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n_rows, width = 70_000, 6
    lengths = rng.integers(0, width + 1, n_rows)
    padded = rng.integers(1, 5, (n_rows, width))
    padded[np.arange(width) < (width - lengths)[:, None]] = 0
    columns = {
        "user_id": rng.integers(1, 50, n_rows),
        "item_id": rng.integers(1, 10, n_rows),
        "item_seq": pa.FixedSizeListArray.from_arrays(padded.reshape(-1), width),
        "likes_level": rng.integers(0, 11, n_rows),
        "views_level": rng.integers(0, 11, n_rows),
        "label": rng.integers(0, 2, n_rows),
    }
    dataset = _build(small_data.write_data(tmp_path, train=columns))
    lists = [tuple(row[row > 0].tolist()) for row in padded]
    stored = [tuple(history.tolist()) for history in dataset.histories]
    assert [stored[index] for index in dataset.train.history] == lists
    assert len(set(stored)) == len(stored)
    assert stored[: len(set(lists))] == list(dict.fromkeys(lists))
    inside = [item in history for item, history in zip(columns["item_id"], lists, strict=True)]
    assert dataset.provenance["train"]["share_target_in_history"] == pytest.approx(np.mean(inside))


def test_a_built_dataset_survives_writing_and_reading(tmp_path: Path) -> None:
    dataset = _build(small_data.write_data(tmp_path / "data"))
    (tmp_path / "out").mkdir()
    dataset.write(tmp_path / "out")
    again = CtrDataset.read(tmp_path / "out")
    assert again.provenance == dataset.provenance
    assert again.fingerprint == dataset.fingerprint
    assert again.test.row_id is not None
    assert again.test.row_id.tolist() == [11, 10]
    assert [history.tolist() for history in again.histories] == [
        history.tolist() for history in dataset.histories
    ]


def test_loading_does_not_import_pandas(tmp_path: Path) -> None:
    # Many functions of Arrow import pandas if it is installed, which is slow.
    program = (
        "import sys; from pathlib import Path\n"
        "from mmctr_pipeline.data.discovery import find_data\n"
        "from mmctr_pipeline.data.build import build_dataset\n"
        "build_dataset(find_data(Path(sys.argv[1])))\n"
        "print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(small_data.write_data(tmp_path))]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_counts_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _build(small_data.write_data(tmp_path))
    assert "9 items in item_feature.parquet" in caplog.messages
    assert "4 rows in train.parquet" in caplog.messages
    assert "4 distinct histories in 8 rows" in caplog.messages


def test_train_histories_come_from_train_rows_only(tmp_path: Path) -> None:
    layout = find_data(small_data.write_data(tmp_path))
    histories = read_train_histories(layout, read_items(layout))
    # The whole dataset also has [2], which is only in valid and test.
    assert [history.tolist() for history in histories] == [[1, 2], [3, 2, 1], []]
    unknown = small_data.train() | {"item_seq": [[0, 1, 2], [0, 1, 77], [3, 2, 1], [0, 0, 0]]}
    small_data.write(layout.train, unknown)
    with pytest.raises(DataError, match="77"):
        read_train_histories(layout, read_items(layout))

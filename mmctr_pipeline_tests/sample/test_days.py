"""A sample dataset by day can be written night by night, and its days have known probabilities."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.sample.config import WINDOW_DAYS, SampleConfig
from mmctr_pipeline.sample.days import generate_days, read_truth
from mmctr_pipeline.sample.timeline import Timeline
from mmctr_pipeline.sample.write import generate_sample, read_best_possible_auc
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.sample.test_write import contents

SMALL = {"n_items": 300, "n_users": 900, "n_train_rows": 4_200, "n_test_rows": 300}
ALL_FILES_OF_A_DAY = 9
"""At least: markers, parts and truth of interactions and candidates, and three item tables."""


def _config(days: int, **changed: object) -> SampleConfig:
    return SampleConfig(days=days, images=False, **{**SMALL, **changed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    generate_sample(_config(3), folder)
    return folder


def test_each_night_adds_only_its_own_files(folder: Path, tmp_path: Path) -> None:
    expected = contents(folder)
    generate_days(_config(1), tmp_path)
    for days in (2, 3):
        before = contents(tmp_path)
        files = [path for path in tmp_path.rglob("*.parquet") if path.is_file()]
        written_at = {path: path.stat().st_mtime_ns for path in files}
        generate_days(_config(days), tmp_path)
        added = contents(tmp_path).keys() - before.keys()
        date = Timeline(_config(days)).date(WINDOW_DAYS - 1 + days)
        assert len(added) >= ALL_FILES_OF_A_DAY
        assert all(date in name for name in added)
        assert all(path.stat().st_mtime_ns == time for path, time in written_at.items())
    assert contents(tmp_path) == expected


def test_an_interrupted_day_is_written_again(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    last = sorted((copy / "interactions").iterdir())[-1]
    (last / "_SUCCESS").unlink()
    (last / "part-0001.parquet").write_bytes(b"half")
    generate_days(_config(3), copy)
    assert contents(copy) == contents(folder)


def test_fewer_days_than_there_are_change_nothing(folder: Path) -> None:
    before = contents(folder)
    generate_days(_config(1), folder)
    assert contents(folder) == before


@pytest.mark.parametrize("changed", [{"seed": 8}, {"drift": 0.1}, {"n_items": 301}])
def test_other_settings_are_not_added_to_a_folder(changed: dict[str, object], folder: Path) -> None:
    with pytest.raises(SettingsError, match=rf"other settings \({next(iter(changed))}\)"):
        generate_days(_config(4, **changed), folder)


def test_days_are_not_added_to_a_dataset_with_splits(tmp_path: Path) -> None:
    generate_sample(SampleConfig(images=False, **SMALL), tmp_path)
    with pytest.raises(SettingsError, match=r"other settings \(days\)\. Fix"):
        generate_days(_config(1), tmp_path)


def _dataset(folder: Path, night: int, **settings: int) -> CtrDataset:
    day = Timeline(_config(3)).date(WINDOW_DAYS - 1 + night)
    return build_dataset(find_data(folder), DataConfig(day=day, min_valid_rows=1, **settings))


def test_the_pipeline_reads_the_days_with_new_items_and_users(folder: Path) -> None:
    timeline = Timeline(_config(3))
    for night in (0, 3):
        dataset = _dataset(folder, night)
        day = WINDOW_DAYS - 1 + night
        assert len(dataset.valid) == timeline.n_rows(day)
        assert dataset.valid.item_id.max() <= timeline.n_items(day)
        is_new = dataset.valid.item_id > timeline.n_items(day - 1)
        assert is_new.mean() == pytest.approx(0.1, abs=0.08)
        assert not np.isin(dataset.valid.item_id[is_new], dataset.train.item_id).any()
        users = (
            dataset.valid.user_id
            if dataset.users is None
            else dataset.users.ids_at(dataset.valid.user_id)
        )
        assert users.max() <= timeline.n_users(day)
        assert 0.3 < np.isin(dataset.valid.user_id, dataset.train.user_id).mean() < 1
        assert len(dataset.test) == timeline.n_candidates()
    assert len(dataset.items) == timeline.n_items(WINDOW_DAYS + 2)


def test_the_truth_has_the_labels_of_the_rows_in_their_order(folder: Path) -> None:
    valid = _dataset(folder, 3, valid_days=2).valid
    days = [Timeline(_config(3)).date(WINDOW_DAYS + 1), Timeline(_config(3)).date(WINDOW_DAYS + 2)]
    truth = read_truth(folder, days)
    assert truth.column("label").to_pylist() == valid.label.tolist()
    probability = truth.column("probability").to_numpy()
    assert read_best_possible_auc(folder, days) == auc(valid.label, probability)
    summary = json.loads((folder / "sample_dataset.json").read_text())
    by_day = {day["day"]: day["best_possible_auc"] for day in summary["days"]}
    assert len(by_day) == WINDOW_DAYS + 3
    for day in days:
        assert 0.8 < by_day[day] == read_best_possible_auc(folder, [day]) < 0.95


def test_a_folder_without_these_days_has_no_best_possible_auc(folder: Path) -> None:
    assert read_best_possible_auc(folder, ["2025-01-01"]) is None
    assert read_best_possible_auc(folder) is None


def test_drift_changes_what_is_clicked_but_not_what_is_shown(folder: Path, tmp_path: Path) -> None:
    generate_days(_config(3, drift=0.0), tmp_path)
    name = f"interactions/day={Timeline(_config(3)).date(WINDOW_DAYS + 2)}/part-0000.parquet"
    drifting, stationary = (pq.read_table(root / name) for root in (folder, tmp_path))
    for column in ("user_id", "item_id", "item_seq"):
        assert drifting.column(column).equals(stationary.column(column))
    assert not drifting.column("label").equals(stationary.column("label"))


def test_new_items_have_titles_and_covers(tmp_path: Path) -> None:
    config = SampleConfig(days=1, missing_image_share=0.3, **{**SMALL, "n_train_rows": 400})
    generate_days(config, tmp_path)
    timeline = Timeline(config)
    n_first, n_items = timeline.n_items(0), timeline.n_items(WINDOW_DAYS)
    items = pq.read_table(tmp_path / "item_feature.parquet", partitioning=None)
    assert items.column("item_id").to_pylist() == list(range(1, n_items + 1))
    titles = items.column("item_title").to_pylist()[n_first:]
    assert len(set(titles)) > 0.9 * len(titles)
    covers = [tmp_path / "item_images" / f"{item}.jpg" for item in range(n_first + 1, n_items + 1)]
    there = [path.read_bytes() for path in covers if path.exists()]
    assert len(set(there)) > 0.9 * len(there)
    assert len(there) / len(covers) == pytest.approx(0.7, abs=0.15)

"""The profile of a night has the figures that one counts by hand in its files."""

from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.monitoring.profile import (
    DataProfile,
    independent_size,
    profile_data,
    profile_scores,
)
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.day_data import FOURTH, write_day, write_days
from mmctr_pipeline_tests.data.small_data import write, write_data


def profile(root: Path) -> DataProfile:
    layout = find_data(root)
    return profile_data(build_dataset(layout), layout)


def test_the_figures_are_those_of_the_files(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "item_images").mkdir()
    for name in ("2.jpg", "image5.png", "9.jpg"):
        (tmp_path / "item_images" / name).touch()
    found = profile(tmp_path)
    assert found.numbers == {
        "item_feature.rows": 9,
        "train.rows": 4,
        "train.users": 2,
        "train.items": 4,
        "train.label_rate": 0.5,
        "valid.rows": 2,
        "valid.users": 2,
        "valid.items": 2,
        "valid.label_rate": 0.5,
        # Train has the targets 4 to 7 and the users 1 and 2.
        "valid.unknown_items": 1.0,
        "valid.unknown_users": 0.5,
        "test.rows": 2,
        "test.users": 2,
        "test.items": 2,
        "test.unknown_items": 1.0,
        "test.unknown_users": 0.5,
        "item_images.coverage": 3 / 9,
        # Items that train lacks have the mean rate, and so has user 2.
        "valid.rates_auc": 0.5,
    }
    assert found.distributions["train.history_length"].counts == [1, 0, 2, 1]
    assert found.distributions["train.history_length"].mean == 7 / 4
    assert found.distributions["train.likes_level"].counts == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.distributions["test.views_level"].counts == [0, 0, 0, 1, 1]
    assert found.schema["test"]["ID"] == "int64"
    assert found.schema["item_feature"]["item_title"] == "string"
    assert set(found.schema) == {"train", "valid", "test", "item_feature"}


@pytest.mark.parametrize(("labels", "expected"), [([1, 0, 0, 1], 1.0), ([0, 1, 1, 0], 0.0)])
def test_click_rates_of_train_rank_the_last_valid_day_alone(
    labels: list[int], expected: float, tmp_path: Path
) -> None:
    write_days(tmp_path)
    write_day(tmp_path, FOURTH, {**small_data.train(), "label": labels})
    layout = find_data(tmp_path)
    dataset = build_dataset(layout, DataConfig(valid_days=2, min_valid_rows=1))
    found = profile_data(dataset, layout).shares["valid.rates_auc"]
    # Two independent observations, as two users have two rows each; half of them of either class.
    assert (found.value, found.size) == (expected, 2 * 0.5)


def test_item_info_is_in_the_schema_and_missing_covers_are_no_error(tmp_path: Path) -> None:
    write_data(tmp_path)
    write(tmp_path / "item_info.parquet", {"item_id": [0, 1], "vector": [[0.0, 0.0], [0.5, 1.0]]})
    (tmp_path / "item_images").mkdir()
    (tmp_path / "item_images" / "of_no_item.jpg").touch()
    found = profile(tmp_path)
    assert found.schema["item_info"] == {"item_id": "int64", "vector": "list<element: double>"}
    assert found.shares["item_images.coverage"].value == 0


def test_histories_beyond_the_longest_count_with_it(tmp_path: Path) -> None:
    train = small_data.train()
    train["item_seq"] = [[1] * 3_000, [1] * 1_000, [1] * 999, [2]]
    write_data(tmp_path, train=train)
    counts = profile(tmp_path).distributions["train.history_length"].counts
    assert (len(counts), counts[1], counts[999], counts[1000]) == (1001, 1, 1, 2)


def test_rows_of_one_user_count_as_one_observation_and_a_robot_hides_little() -> None:
    users = np.arange(1, 1_001)
    assert independent_size(users) == 1_000
    assert independent_size(np.repeat(users, 7)) == pytest.approx(1_000)
    assert independent_size(np.repeat([1, 1, 2, 3], 10)) == pytest.approx(40**2 / (400 + 100 + 100))
    # Half of 140,000 rows are one user's: alone, they would leave four observations.
    users = np.repeat(np.arange(1, 10_001), 7)
    assert 2_000 < independent_size(np.append(users, np.full(70_000, 20_000))) < 10_000


def test_scores_of_0_and_1_are_in_the_outer_bins() -> None:
    found = profile_scores(np.array([0, 0.5, 0.5, 0.5, 1], np.float32), 5)
    counts = found.histogram.counts
    assert (counts[0], counts[-1], max(counts), sum(counts)) == (1, 1, 3, 5)
    assert (found.histogram.mean, found.quantiles["0.5"]) == (0.5, 0.5)


def test_a_data_folder_keeps_its_name_if_the_link_leads_to_another_folder_each_night(
    tmp_path: Path,
) -> None:
    nights = [write_data(tmp_path / name) for name in ("monday", "tuesday")]
    current = tmp_path / "current"
    names = set()
    for night in nights:
        current.unlink(missing_ok=True)
        current.symlink_to(night.name)
        names.add(profile(current).folder)
    assert names == {str(current)}

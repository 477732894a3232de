"""The tables of the sample dataset have the form of the real data and the promised statistics."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.sample.config import SampleConfig, SamplePaths
from mmctr_pipeline.sample.write import generate_sample, read_best_possible_auc

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    """The default sample dataset, without images."""
    folder = tmp_path_factory.mktemp("default")
    generate_sample(SampleConfig(images=False), folder)
    return SamplePaths(folder)


@pytest.fixture(scope="module")
def splits(sample: SamplePaths) -> dict[str, pa.Table]:
    return {name: pq.read_table(sample.split(name)) for name in SPLITS}


@pytest.fixture(scope="module")
def histories(splits: dict[str, pa.Table]) -> dict[str, np.ndarray]:
    return {name: np.array(table.column("item_seq").to_pylist()) for name, table in splits.items()}


def _plain_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of (click, non-click) pairs in which the click scores higher; ties count half."""
    clicked, others = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float((clicked > others).mean() + (clicked == others).mean() / 2)


def test_files_and_columns_match_the_real_data(sample: SamplePaths) -> None:
    integers, numbers = pa.list_(pa.int64()), pa.list_(pa.float32())
    common = {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "item_seq": integers,
        "likes_level": pa.int64(),
        "views_level": pa.int64(),
    }
    expected = {
        "MicroLens_1M_x1/train.parquet": {**common, "label": pa.int64()},
        "MicroLens_1M_x1/valid.parquet": {**common, "label": pa.int64()},
        "MicroLens_1M_x1/test.parquet": {**common, "ID": pa.int64()},
        "MicroLens_1M_x1/item_info.parquet": {
            "item_id": pa.int64(),
            "item_tags": integers,
            "item_emb_d128": numbers,
        },
        "item_feature.parquet": {
            "item_id": pa.int64(),
            "item_title": pa.string(),
            "item_tags": integers,
            "likes_level": pa.int64(),
            "views_level": pa.int64(),
            "txt_emb_BERT": numbers,
            "img_emb_CLIPRN50": numbers,
        },
        "item_seq.parquet": {"user_id": pa.int64(), "item_seq": integers},
    }
    for name, columns in expected.items():
        schema = pq.read_schema(sample.root / name)
        assert dict(zip(schema.names, schema.types, strict=True)) == columns, name


def test_sizes_match_the_settings(sample: SamplePaths, splits: dict[str, pa.Table]) -> None:
    config = SampleConfig()
    assert len(splits["train"]) == config.n_train_rows
    assert len(splits["valid"]) == config.n_valid_rows
    assert len(splits["test"]) == config.n_test_rows
    assert pq.read_metadata(sample.item_feature).num_rows == config.n_items
    users = np.unique(np.concatenate([t.column("user_id").to_numpy() for t in splits.values()]))
    assert np.array_equal(users, np.arange(1, config.n_users + 1))
    assert splits["test"].column("ID").to_pylist() == list(range(1, config.n_test_rows + 1))


def test_no_user_is_in_two_splits(splits: dict[str, pa.Table]) -> None:
    users = [set(table.column("user_id").to_pylist()) for table in splits.values()]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]


@pytest.mark.parametrize("n_rows", [(3600, 4, 4), (4, 3600, 4), (4, 4, 3600)])
def test_even_a_tiny_split_has_its_own_users(tmp_path: Path, n_rows: tuple[int, int, int]) -> None:
    sizes = dict(zip(("n_train_rows", "n_valid_rows", "n_test_rows"), n_rows, strict=True))
    generate_sample(SampleConfig(n_items=150, n_users=60, images=False, **sizes), tmp_path)
    tables = [pq.read_table(SamplePaths(tmp_path).split(name)) for name in SPLITS]
    assert tuple(len(table) for table in tables) == n_rows
    users = [set(table.column("user_id").to_pylist()) for table in tables]
    assert all(users)
    assert sum(len(ids) for ids in users) == len(set().union(*users))


@pytest.mark.parametrize("name", SPLITS)
def test_histories_are_left_padded_and_have_known_items(
    splits: dict[str, pa.Table], histories: dict[str, np.ndarray], name: str
) -> None:
    history = histories[name]
    assert history.shape == (len(splits[name]), 100)
    real = history > 0
    assert np.all(np.diff(real.astype(int), axis=1) >= 0)
    assert real.sum(axis=1).min() == 3
    assert real.sum(axis=1).mean() == pytest.approx(8, abs=0.6)
    assert history.max() <= SampleConfig().n_items
    target = splits[name].column("item_id").to_numpy()
    assert not np.any(history == target[:, None])


def test_about_four_rows_share_a_history(
    splits: dict[str, pa.Table], histories: dict[str, np.ndarray]
) -> None:
    train = splits["train"]
    rows = np.column_stack([train.column("user_id").to_numpy(), histories["train"]])
    assert len(train) / len(np.unique(rows, axis=0)) == pytest.approx(4, abs=0.1)


def test_train_targets_and_all_histories_contain_no_cold_items(
    sample: SamplePaths, splits: dict[str, pa.Table], histories: dict[str, np.ndarray]
) -> None:
    truth = pq.read_table(sample.item_truth)
    cold = set(truth.filter(truth.column("cold")).column("item_id").to_pylist())
    assert len(cold) == pytest.approx(0.25 * len(truth), rel=0.1)
    assert not cold & set(splits["train"].column("item_id").to_pylist())
    for name in SPLITS:
        assert not cold & set(np.unique(histories[name]).tolist())
    for name in ("valid", "test"):
        targets = splits[name].column("item_id").to_numpy()
        assert 0.3 < np.isin(targets, list(cold)).mean() < 0.4


def test_levels_of_a_row_are_those_of_its_item(
    sample: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    items = pq.read_table(sample.item_feature, columns=["likes_level", "views_level"])
    for table in splits.values():
        row = table.column("item_id").to_numpy() - 1
        for name in items.column_names:
            assert np.array_equal(table.column(name).to_numpy(), items.column(name).to_numpy()[row])


def test_item_info_starts_with_a_row_of_zeros_and_repeats_the_tags(sample: SamplePaths) -> None:
    info = pq.read_table(sample.item_info)
    assert info.column("item_id").to_pylist() == list(range(SampleConfig().n_items + 1))
    tags = np.array(info.column("item_tags").to_pylist())
    vectors = np.array(info.column("item_emb_d128").to_pylist())
    assert tags.shape[1] == 5
    assert vectors.shape[1] == 128
    assert not tags[0].any()
    assert not vectors[0].any()
    assert np.all(np.abs(vectors[1:]).sum(axis=1) > 0)
    feature = pq.read_table(sample.item_feature, columns=["item_tags"])
    lists = feature.column("item_tags").to_pylist()
    assert tags[1:].tolist() == [[0] * (5 - len(real)) + real for real in lists]


def test_the_best_possible_auc_is_that_of_the_true_probabilities(
    sample: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    truth = pq.read_table(sample.truth)
    valid = truth.filter(pa.compute.equal(truth.column("split"), "valid"))
    labels = splits["valid"].column("label").to_numpy()
    assert valid.column("row").to_pylist() == list(range(len(labels)))
    assert np.array_equal(valid.column("label").to_numpy(), labels)
    expected = _plain_auc(valid.column("probability").to_numpy(), labels)
    assert read_best_possible_auc(sample.root) == pytest.approx(expected, abs=1e-9)
    assert 0.82 < expected < 0.90
    assert 0.35 < labels.mean() < 0.5
    assert len(truth) == len(labels) + len(splits["test"])


def test_popularity_alone_is_a_weak_score(sample: SamplePaths, splits: dict[str, pa.Table]) -> None:
    shown = np.bincount(splits["train"].column("item_id").to_numpy(), minlength=1_501)
    score = shown[splits["valid"].column("item_id").to_numpy()]
    auc = _plain_auc(score, splits["valid"].column("label").to_numpy())
    assert auc < 0.60
    summary = json.loads(sample.summary.read_text())
    assert summary["popularity_auc"] == pytest.approx(auc, abs=1e-9)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_the_auc_bounds_hold_for_other_seeds(tmp_path: Path, seed: int) -> None:
    summary = generate_sample(SampleConfig(seed=seed, images=False), tmp_path)
    assert 0.82 < summary["best_possible_auc"] < 0.90
    assert summary["popularity_auc"] < 0.60


@pytest.mark.parametrize("scale", [0.001, 0.05, pytest.param(1.5, marks=pytest.mark.slow)])
def test_any_scale_gives_a_complete_dataset(tmp_path: Path, scale: float) -> None:
    config = SampleConfig.scaled(scale, images=False)
    summary = generate_sample(config, tmp_path)
    paths = SamplePaths(tmp_path)
    for name in SPLITS:
        rows = pq.read_metadata(paths.split(name)).num_rows
        assert rows == getattr(config, f"n_{name}_rows") == summary[f"n_{name}_rows"]
    assert 0 < summary["best_possible_auc"] < 1

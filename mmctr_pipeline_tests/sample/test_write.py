import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.paths import SamplePaths
from mmctr_pipeline.sample.write import ensure_sample, generate_sample, read_best_possible_auc

TINY = SampleConfig.scaled(0.02)
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SamplePaths:
    """The default world, without its images."""
    folder = tmp_path_factory.mktemp("default")
    generate_sample(SampleConfig(images=False), folder)
    return SamplePaths(folder)


@pytest.fixture(scope="module")
def splits(world: SamplePaths) -> dict[str, pa.Table]:
    return {name: pq.read_table(world.split(name)) for name in SPLITS}


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _histories(table: pa.Table) -> np.ndarray:
    return np.array(table.column("item_seq").to_pylist())


def _plain_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the pairs of a click and a non-click that are ranked right; ties count half."""
    clicked, others = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float((clicked > others).mean() + (clicked == others).mean() / 2)


def test_files_and_columns_are_those_of_the_real_data(world: SamplePaths) -> None:
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
        schema = pq.read_schema(world.root / name)
        assert dict(zip(schema.names, schema.types, strict=True)) == columns, name


def test_sizes_are_those_of_the_configuration(
    world: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    config = SampleConfig()
    assert len(splits["train"]) == config.n_train_rows
    assert len(splits["valid"]) == config.n_valid_rows
    assert len(splits["test"]) == config.n_test_rows
    assert pq.read_metadata(world.item_feature).num_rows == config.n_items
    users = np.unique(np.concatenate([t.column("user_id").to_numpy() for t in splits.values()]))
    assert np.array_equal(users, np.arange(1, config.n_users + 1))
    assert splits["test"].column("ID").to_pylist() == list(range(1, config.n_test_rows + 1))


def test_no_user_is_in_two_splits(splits: dict[str, pa.Table]) -> None:
    users = [set(table.column("user_id").to_pylist()) for table in splits.values()]
    assert not users[0] & users[1]
    assert not users[0] & users[2]
    assert not users[1] & users[2]


@pytest.mark.parametrize("n_rows", [(3600, 4, 4), (4, 3600, 4), (4, 4, 3600)])
def test_every_split_has_a_user_of_its_own_however_small_it_is(
    tmp_path: Path, n_rows: tuple[int, int, int]
) -> None:
    sizes = dict(zip(("n_train_rows", "n_valid_rows", "n_test_rows"), n_rows, strict=True))
    generate_sample(SampleConfig(n_items=150, n_users=60, images=False, **sizes), tmp_path)
    tables = [pq.read_table(SamplePaths(tmp_path).split(name)) for name in SPLITS]
    assert tuple(len(table) for table in tables) == n_rows
    users = [set(table.column("user_id").to_pylist()) for table in tables]
    assert all(users)
    assert sum(len(found) for found in users) == len(set().union(*users))


@pytest.mark.parametrize("name", SPLITS)
def test_histories_are_padded_on_the_left_and_hold_known_items(
    splits: dict[str, pa.Table], name: str
) -> None:
    history = _histories(splits[name])
    assert history.shape == (len(splits[name]), 100)
    real = history > 0
    assert np.all(np.diff(real.astype(int), axis=1) >= 0)
    assert real.sum(axis=1).min() == 3
    assert real.sum(axis=1).mean() == pytest.approx(8, abs=0.6)
    assert history.max() <= SampleConfig().n_items
    target = splits[name].column("item_id").to_numpy()
    assert not np.any(history == target[:, None])


def test_about_four_rows_share_a_history(splits: dict[str, pa.Table]) -> None:
    train = splits["train"]
    rows = np.column_stack([train.column("user_id").to_numpy(), _histories(train)])
    assert len(train) / len(np.unique(rows, axis=0)) == pytest.approx(4, abs=0.1)


def test_train_and_all_histories_never_show_a_cold_item(
    world: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    truth = pq.read_table(world.item_truth)
    cold = set(truth.filter(truth.column("cold")).column("item_id").to_pylist())
    assert len(cold) == pytest.approx(0.25 * len(truth), rel=0.1)
    assert not cold & set(splits["train"].column("item_id").to_pylist())
    for name in SPLITS:
        assert not cold & set(np.unique(_histories(splits[name])).tolist())
    for name in ("valid", "test"):
        targets = splits[name].column("item_id").to_numpy()
        assert 0.3 < np.isin(targets, list(cold)).mean() < 0.4


def test_levels_of_a_row_are_those_of_its_item(
    world: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    items = pq.read_table(world.item_feature, columns=["likes_level", "views_level"])
    for table in splits.values():
        row = table.column("item_id").to_numpy() - 1
        for name in items.column_names:
            assert np.array_equal(table.column(name).to_numpy(), items.column(name).to_numpy()[row])


def test_item_info_begins_with_a_row_of_zeros_and_repeats_the_tags(world: SamplePaths) -> None:
    info = pq.read_table(world.item_info)
    assert info.column("item_id").to_pylist() == list(range(SampleConfig().n_items + 1))
    tags = np.array(info.column("item_tags").to_pylist())
    vectors = np.array(info.column("item_emb_d128").to_pylist())
    assert tags.shape[1] == 5
    assert vectors.shape[1] == 128
    assert not tags[0].any()
    assert not vectors[0].any()
    assert np.all(np.abs(vectors[1:]).sum(axis=1) > 0)
    feature = pq.read_table(world.item_feature, columns=["item_tags"])
    lists = feature.column("item_tags").to_pylist()
    assert [[tag for tag in row if tag] for row in tags[1:].tolist()] == lists
    assert all(row[: 5 - len(kept)] == [0] * (5 - len(kept)) for row, kept in zip(
        tags[1:].tolist(), lists, strict=True
    ))  # fmt: skip


def test_the_best_possible_auc_is_that_of_the_true_probabilities(
    world: SamplePaths, splits: dict[str, pa.Table]
) -> None:
    truth = pq.read_table(world.truth)
    of_valid = truth.filter(pa.compute.equal(truth.column("split"), "valid"))
    labels = splits["valid"].column("label").to_numpy()
    assert of_valid.column("row").to_pylist() == list(range(len(labels)))
    assert np.array_equal(of_valid.column("label").to_numpy(), labels)
    expected = _plain_auc(of_valid.column("probability").to_numpy(), labels)
    assert read_best_possible_auc(world.root) == pytest.approx(expected, abs=1e-9)
    assert 0.82 < expected < 0.90
    assert 0.35 < labels.mean() < 0.5
    assert len(truth) == len(labels) + len(splits["test"])


def test_popularity_alone_says_little(world: SamplePaths, splits: dict[str, pa.Table]) -> None:
    shown = np.bincount(splits["train"].column("item_id").to_numpy(), minlength=1_501)
    score = shown[splits["valid"].column("item_id").to_numpy()]
    found = _plain_auc(score, splits["valid"].column("label").to_numpy())
    assert found < 0.60
    summary = json.loads(world.summary.read_text())
    assert summary["popularity_auc"] == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bounds_hold_for_other_seeds(tmp_path: Path, seed: int) -> None:
    summary = generate_sample(SampleConfig(seed=seed, images=False), tmp_path)
    assert 0.82 < summary["best_possible_auc"] < 0.90
    assert summary["popularity_auc"] < 0.60


def test_equal_configurations_give_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        generate_sample(SampleConfig.scaled(0.02, seed=seed), tmp_path / name)
    one, same, other = (_contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    data_files = [name for name in one if name in other]
    assert len(data_files) > 100
    assert not [name for name in data_files if one[name] == other[name]]


def test_a_world_without_images_is_the_same_but_for_them(tmp_path: Path) -> None:
    with_images = generate_sample(TINY, tmp_path / "with")
    without = SampleConfig.scaled(0.02, images=False)
    generate_sample(without, tmp_path / "without")
    assert not SamplePaths(tmp_path / "without").images.exists()
    kept = {
        name: digest
        for name, digest in _contents(tmp_path / "with").items()
        if not name.startswith("item_images/") and name != "sample_world.json"
    }
    found = _contents(tmp_path / "without")
    assert {**kept, "sample_world.json": found["sample_world.json"]} == found
    assert with_images["n_images"] > 100


PLAIN_PROCESS = """
import sys
from pathlib import Path

for name in ("PIL", "polars", "filelock", "dagster", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

generate_sample(SampleConfig.scaled(0.02, images=False), Path(sys.argv[1]))
"""


def test_without_images_it_runs_where_torch_runs_and_gives_the_same_bytes(tmp_path: Path) -> None:
    """Another process, hash seed and number of threads; no Pillow, polars or Dagster."""
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN_PROCESS, str(tmp_path / "plain")]
    subprocess.run(command, env=environment, check=True)
    generate_sample(SampleConfig.scaled(0.02, images=False), tmp_path / "here")
    assert _contents(tmp_path / "plain") == _contents(tmp_path / "here")


ENSURING_PROCESS = """
import logging
import sys
from pathlib import Path

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import ensure_sample

logging.basicConfig(level=logging.INFO)
sys.stdout.write(f"{ensure_sample(SampleConfig.scaled(0.3), Path(sys.argv[1]))}")
"""


def test_two_processes_at_once_make_one_world(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENSURING_PROCESS, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    config = SampleConfig.scaled(0.3)
    assert {output[0] for output in outputs} == {str(tmp_path / config.key)}
    # Only the one that generated it had anything to say.
    assert sorted(bool(output[1]) for output in outputs) == [False, True]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [config.key]
    assert read_best_possible_auc(tmp_path / config.key) is not None


def test_a_world_that_exists_is_left_alone_and_a_half_made_one_is_not(tmp_path: Path) -> None:
    folder = ensure_sample(TINY, tmp_path)
    before = _contents(folder)
    assert ensure_sample(TINY, tmp_path) == folder
    (folder / "sample_world.json").unlink()
    (folder / "item_seq.parquet").write_bytes(b"half")
    left_behind = tmp_path / f".{TINY.key}.making-abc"
    left_behind.mkdir()
    assert ensure_sample(TINY, tmp_path) == folder
    assert _contents(folder) == before
    assert not left_behind.exists()


def test_other_data_have_no_best_possible_auc(tmp_path: Path) -> None:
    assert read_best_possible_auc(tmp_path) is None


@pytest.mark.parametrize("scale", [0.001, 0.05, 3])
def test_any_scale_makes_a_whole_world(tmp_path: Path, scale: float) -> None:
    config = SampleConfig.scaled(scale, images=False)
    summary = generate_sample(config, tmp_path)
    paths = SamplePaths(tmp_path)
    for name in SPLITS:
        rows = pq.read_metadata(paths.split(name)).num_rows
        assert rows == getattr(config, f"n_{name}_rows") == summary[f"n_{name}_rows"]
    assert 0 < summary["best_possible_auc"] < 1

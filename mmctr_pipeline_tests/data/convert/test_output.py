"""A folder is replaced only if a conversion wrote it, and the pipeline runs on converted data."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.data.convert.config import MicroLensConfig, MovieLensConfig
from mmctr_pipeline.data.convert.convert import convert_microlens, convert_movielens
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.submission.files import submission_frame, write_submission
from mmctr_pipeline_tests.data.convert.downloads import (
    drawn_pairs,
    drawn_ratings,
    write_images,
    write_microlens,
    write_movielens_1m,
)
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL

DOCUMENT = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_movielens_1m(tmp_path / "ml", drawn_ratings())


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_conversion_replaces_an_earlier_one_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    convert_movielens(raw, output, MovieLensConfig())
    written = _names(output)
    convert_movielens(raw, output, MovieLensConfig(max_users=4))
    assert pl.read_parquet(output / "train.parquet")["user_id"].n_unique() == 4
    assert _names(output) == written
    (output / "mine.yaml").write_text("extends: din")
    with pytest.raises(
        SettingsError, match=r"data holds mine\.yaml, which no conversion wrote\. Fix"
    ):
        convert_movielens(raw, output, MovieLensConfig())
    with pytest.raises(SettingsError, match=r"ml holds movies\.dat"):
        convert_movielens(raw, raw, MovieLensConfig())
    assert _names(output) == written | {"mine.yaml"}
    assert _names(tmp_path) == {"ml", "data"}


def test_leftovers_of_a_killed_conversion_are_removed(raw: Path, tmp_path: Path) -> None:
    for name in (".data.making", ".data.old"):
        (tmp_path / name / "item_images").mkdir(parents=True)
    (tmp_path / ".data.lock").touch()
    convert_movielens(raw, tmp_path / "data", MovieLensConfig())
    assert _names(tmp_path) == {"ml", "data"}


def test_an_error_leaves_the_earlier_conversion(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    convert_movielens(raw, output, MovieLensConfig())
    before = (output / "train.parquet").read_bytes()
    posters = write_images(tmp_path / "other", ["5.png"])
    with pytest.raises(DataNotFoundError, match="none of the 40 items has an image"):
        convert_movielens(raw, output, MovieLensConfig(max_users=4), posters)
    (raw / "ratings.dat").write_text("1::2\n")
    with pytest.raises(DataError):
        convert_movielens(raw, output, MovieLensConfig())
    assert (output / "train.parquet").read_bytes() == before
    assert _names(tmp_path) == {"ml", "data", "other"}


def test_a_conversion_that_would_keep_no_user_is_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"at least 1000 items in their history\. Fix: lower"):
        convert_movielens(raw, tmp_path / "data", MovieLensConfig(min_history=1000))


@pytest.mark.parametrize("place", ["ml/posters", "elsewhere"])
def test_posters_of_movies_are_put_into_the_converted_folder(
    place: str, raw: Path, tmp_path: Path
) -> None:
    posters = write_images(tmp_path / place, ["1.jpg", "4.PNG", "5.jpg", "logo.png"])
    given = posters if place == "elsewhere" else None
    convert_movielens(raw, tmp_path / "data", MovieLensConfig(), given)
    images = find_data(tmp_path / "data").images
    assert images is not None
    assert images.names() == ["1.jpg", "4.png"]
    content = (tmp_path / "data" / "item_images" / "4.png").read_bytes()
    assert content == (posters / "4.PNG").read_bytes()


def _vectors(item_id: np.ndarray) -> ItemVectors:
    ids = np.append(0, item_id)
    values = np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32)
    values[0] = 0
    return ItemVectors(VectorTable(ids, values, ids > 0, "drawn"))


@pytest.mark.parametrize("name", ["movielens", "microlens"])
def test_the_pipeline_runs_on_converted_data_and_is_scored_as_documented(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "ml-1m-converted"
    if name == "movielens":
        convert_movielens(
            write_movielens_1m(tmp_path / "ml", drawn_ratings()), output, MovieLensConfig()
        )
    else:
        raw = write_microlens(tmp_path / "MicroLens-50k" / "nested", drawn_pairs())
        write_images(raw / "MicroLens-50k_covers", ["1.jpg", "2.jpg"])
        convert_microlens(raw.parent, output, MicroLensConfig())
    layout = find_data(output)
    assert (layout.images is None) == (name == "movielens")
    dataset = pipeline.load_dataset(layout)
    assert dataset.provenance["train"]["share_target_in_history"] == 0
    vectors, device = _vectors(dataset.items.ids), torch.device("cpu")
    trained = pipeline.train(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, device)
    scores = pipeline.score(trained, dataset, dataset.test, vectors, device)
    assert dataset.test.row_id is not None
    storage = tmp_path / "storage"
    storage.mkdir()
    submission = submission_frame(dataset.test.row_id, scores)
    write_submission(submission, storage / "submission.csv", storage / "prediction.zip")
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names: dict[str, Any] = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    assert len(names["rows"]) == len(dataset.test)
    assert capsys.readouterr().out.startswith("AucInterval(")

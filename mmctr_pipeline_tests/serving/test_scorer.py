"""A scorer gives the pipeline's scores, also for new items, unknown ids and unknown users."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from mmctr_pipeline import NewItem, Scorer
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.registry.versions import latest_version
from mmctr_pipeline.sample.config import SamplePaths
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.serving.new_items import NewItemEncoder
from mmctr_pipeline.serving.rows import ItemRows, UserRows
from mmctr_pipeline.submission.files import read_submission
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.rounding import SCORE_TOLERANCE
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample


@pytest.fixture(scope="module")
def storage(finished_run: FinishedRun) -> Path:  # noqa: F811
    return finished_run.deployment.storage


@pytest.fixture(scope="module")
def rows(finished_run: FinishedRun) -> pa.RecordBatch:  # noqa: F811
    """The test rows of the finished run."""
    table = pq.read_table(find_data(finished_run.deployment.data).test)
    (batch,) = table.combine_chunks().to_batches()
    return batch


@pytest.fixture(scope="module")
def scorer(storage: Path) -> Scorer:
    return Scorer.load(storage, "cpu")


def submitted(storage: Path) -> np.ndarray:
    return read_submission(storage / "submission.csv")["Task1&2"].to_numpy()


def test_the_rows_of_the_submission_get_its_scores(
    scorer: Scorer, storage: Path, rows: pa.RecordBatch
) -> None:
    np.testing.assert_allclose(scorer.score_batch(rows), submitted(storage), atol=SCORE_TOLERANCE)


def test_a_scorer_says_what_it_is(scorer: Scorer) -> None:
    n_items = len(scorer.dataset.items.ids)
    assert repr(scorer) == f"<Scorer: improved_mmctr on cpu, a catalogue of {n_items:,} items>"


def test_a_version_is_loaded_by_its_folder_or_its_file(storage: Path, rows: pa.RecordBatch) -> None:
    folder = storage / "models" / latest_version(storage)
    few = rows.slice(0, 20)
    for path in (folder, folder / "model.pt", storage / "best_model.pt"):
        scores = Scorer.load(path, "cpu").score_batch(few)
        np.testing.assert_allclose(scores, submitted(storage)[:20], atol=SCORE_TOLERANCE)


def test_candidates_of_a_history_get_the_scores_of_such_rows(
    scorer: Scorer, rows: pa.RecordBatch
) -> None:
    first = rows.slice(0, 1).to_pylist()[0]
    history = [item for item in first["item_seq"] if item]
    candidates = scorer.dataset.items.ids[:30].tolist()
    same = pa.RecordBatch.from_pylist(
        [{"item_id": item, "item_seq": history, "user_id": 3} for item in candidates]
    )
    scores = scorer.score(scorer.dataset.items.ids[:30], history, user=3)  # NumPy's integers
    np.testing.assert_allclose(scores, scorer.score_batch(same), atol=SCORE_TOLERANCE)
    assert np.abs(scores - scorer.score(candidates)).max() > 1e-3


def test_few_candidates_are_scored_in_float32(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = []

    def scores_of(module: nn.Module, source: BatchSource, precision: str, **_: Any) -> np.ndarray:
        precisions.append(precision)
        return np.zeros(len(source), np.float32)

    monkeypatch.setattr("mmctr_pipeline.serving.scorer.score_rows", scores_of)
    item = scorer.dataset.items.ids[0]
    for n_candidates in (499, 500):
        scorer.score([item] * n_candidates)
    assert precisions == ["float32", scorer.model.training_config["precision"]]
    assert precisions[1] == "auto"


def test_padding_is_no_part_of_a_history(scorer: Scorer) -> None:
    ids = scorer.dataset.items.ids[:3].tolist()
    padded, plain = (
        pa.RecordBatch.from_pylist([{"item_id": ids[0], "item_seq": past}])
        for past in ([0, 0, *ids[1:]], ids[1:])
    )
    assert scorer.score_batch(padded) == scorer.score_batch(plain)


def test_unknown_ids_are_scored(scorer: Scorer) -> None:
    known = scorer.dataset.items.ids[:5].tolist()
    first, second, item = scorer.score([10**6, 10**12, known[0]], known, user=10**9)
    assert first == second != item
    assert 0 < first < 1
    stranger = scorer.score(known, known)
    np.testing.assert_array_equal(scorer.score(known, known, user=10**9), stranger)
    assert np.isfinite(scorer.score(known, [10**6, 10**7])).all()


def test_a_new_item_is_encoded_and_fused_as_the_catalogue_was(
    scorer: Scorer,
    storage: Path,
    finished_run: FinishedRun,  # noqa: F811
) -> None:
    tables = [
        VectorTable.read(storage / f"{name}.parquet")
        for name in ("text_embeddings", "image_embeddings", "fused_pca")
    ]
    both = tables[0].present & tables[1].present
    place = int(np.flatnonzero(both)[0])
    item = tables[0].item_id[place]
    images = find_data(finished_run.deployment.data).images
    assert images is not None
    title = scorer.dataset.items.title[place].as_py()
    encoder = scorer._encoder
    assert isinstance(encoder, NewItemEncoder)
    new = [NewItem("a title of its own"), NewItem(title, images.path(item)), NewItem()]
    found = encoder.encode(new)
    for table, own in zip(tables, (found.text, found.image, found.fused), strict=True):
        assert own is not None
        (row,) = np.flatnonzero(table.item_id == item)
        np.testing.assert_allclose(own.vectors[1], table.vectors[row], atol=1e-4)
        assert own.present[1]
        assert not own.present[2]
        assert not own.vectors[2].any()
    assert found.text is not None
    assert found.image is not None
    assert (found.text.present[0], found.image.present[0]) == (True, False)


def test_new_items_may_be_candidates_and_in_a_history(scorer: Scorer) -> None:
    known = scorer.dataset.items.ids[:4].tolist()
    new = NewItem("Blue sports car on the beach", likes_level=3, views_level=4)
    first = scorer.score([new, known[0], new], [*known[1:], new])
    assert first[0] == first[2] != first[1]
    # Rows of new items are used again by the next call, and leave nothing behind.
    other = scorer.score([NewItem("A cat sleeps"), known[0]], known[1:])
    assert other[0] != first[0]
    np.testing.assert_array_equal(scorer.score([new, known[0], new], [*known[1:], new]), first)
    assert scorer.score([NewItem()])[0] != scorer.score([new])[0]
    assert scorer.score([NewItem(tags=[1, 2])]).shape == (1,)


def test_recommendations_are_the_best_items_outside_the_history(
    scorer: Scorer, rows: pa.RecordBatch
) -> None:
    user = rows.column("user_id")[0].as_py()
    history = scorer.history_of(user)
    assert history
    found = scorer.recommend(user, top=7)
    assert len(found) == 7
    scores = [each.probability for each in found]
    assert scores == sorted(scores, reverse=True)
    ids = [each.item_id for each in found]
    assert not set(ids) & set(history)
    everything = scorer.score(scorer.dataset.items.ids.tolist(), history, user)
    by_id = dict(zip(scorer.dataset.items.ids.tolist(), everything, strict=True))
    rest = [item for item in by_id if item not in history and item not in ids]
    assert max(by_id[item] for item in rest) <= min(scores)
    titles = dict(
        zip(scorer.dataset.items.ids.tolist(), scorer.dataset.items.title.to_pylist(), strict=True)
    )
    assert [each.title for each in found] == [titles[item] or "" for item in ids]
    assert len(scorer.recommend(history=[], top=10**6)) == len(titles)


def test_what_cannot_be_scored_is_refused_with_the_fix(
    scorer: Scorer,
    tmp_path: Path,
    finished_run: FinishedRun,  # noqa: F811
) -> None:
    cover = tmp_path / "cover.jpg"
    cover.write_bytes(b"no picture")
    too_small = tmp_path / "absent.jpg"
    item = scorer.dataset.items.ids[0].item()
    for call, message in (
        (lambda: scorer.score(["seven"]), "item 'seven': the ids of this catalogue are integers"),
        (lambda: scorer.score([NewItem(cover=cover)]), rf"cover of a new item: {cover}: "),
        (lambda: scorer.score([NewItem(cover=too_small)]), r"cover of a new item: .*absent\.jpg"),
        (lambda: scorer.score([NewItem(str(n)) for n in range(1001)]), "1,001 new items in one"),
        (lambda: scorer.recommend(user=10**9), "no row of user 1000000000. Fix: give a history"),
        (lambda: NewItem(likes_level=11), "likes_level is 11, not within 0..10"),
        (lambda: scorer.user_from_text("x"), "user 'x': the user ids of this dataset are integers"),
        (lambda: Scorer.load(tmp_path), r"has no champion. Fix: run the pipeline first"),
    ):
        with pytest.raises(ScorerError, match=message):
            call()
    for columns, message in (
        ({"item_id": [item]}, "item_seq: the column is missing"),
        ({"item_id": [item], "item_seq": [[item]], "likes_level": [11]}, "likes_level, row 5: "),
        ({"item_id": [1.5], "item_seq": [[item]]}, "item_id"),
    ):
        with pytest.raises(DataError, match=message):
            scorer.score_batch(pa.RecordBatch.from_pydict(columns), Path("rows.parquet"), 5)


def test_other_vectors_than_those_of_the_model_are_looked_up_in_the_data(
    finished_run: FinishedRun,  # noqa: F811
    storage: Path,
    rows: pa.RecordBatch,
    tmp_path: Path,
) -> None:
    deployment = finished_run.copy(tmp_path)
    path = deployment.storage / "fused_pca.parquet"
    table = VectorTable.read(path)
    VectorTable(table.item_id, table.vectors, table.present, "of another transform").write(path)
    with pytest.raises(ScorerError, match=r"no longer has the vectors .* name the data folder"):
        Scorer.load(deployment.storage, "cpu")
    sample = deployment.storage / "sample" / "seed7"
    sample.mkdir(parents=True)
    SamplePaths(sample).summary.touch()
    with pytest.raises(ScorerError, match=f"looked up; the sample dataset is in {sample}$"):
        Scorer.load(deployment.storage, "cpu")
    found = Scorer.load(deployment.storage, "cpu", deployment.data).score_batch(rows)
    np.testing.assert_allclose(found, submitted(storage), atol=SCORE_TOLERANCE)


def test_users_and_strings_get_the_models_rows() -> None:
    dense = UserRows(None, 5)
    assert dense.rows(np.array([1, 4, 5, 10**12])).tolist() == [1, 4, 5, 5]
    named = UserRows(IdMap(np.array(["a", "b"]), is_identity=False), 3)
    assert named.rows(pa.array(["b", "c", "a"], pa.large_string())).tolist() == [2, 3, 1]
    assert [named.row(user) for user in (None, "b", "longer than the others", 7)] == [3, 2, 3, 3]


def test_items_with_strings_as_ids_are_found_in_lists_too() -> None:
    dataset, vectors = small_sample(n_train=100)
    names = np.array([f"item {n:06}" for n in dataset.items.ids])
    items = dataclasses.replace(dataset.items, ids=names)
    fused = dataclasses.replace(vectors.fused.aligned_to(dataset.items.ids), item_id=names)
    n_items = int(items.item_id.max()) + 1
    known = IdMap(names[:-1], is_identity=False)  # the model lacks the last item
    rows = ItemRows(items, ItemVectors(fused), SMALL_MODEL, known, n_items, torch.device("cpu"))
    found = rows.rows([names[0].item(), "of nobody", names[-1].item()], {})
    assert found[0] == 1
    assert len({*found.tolist()}) == 3
    assert min(found[1:]) >= n_items
    past = ["", "", names[1].item(), "of nobody"]
    batch = pa.RecordBatch.from_pylist([{"item_id": names[0].item(), "item_seq": past}])
    split, histories = rows.read(batch, UserRows(None, 5), Path("rows"))
    assert split.item_id.tolist() == [1]
    assert split.user_id.tolist() == [5]
    assert histories[0].tolist() == [2, found[1]]


def test_pictures_of_any_form_are_covers(scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (40, 20), 128).save(path)
    (score,) = scorer.score([NewItem(cover=path)])
    assert 0 < score < 1

"""The pipeline's functions: the documented example, and scores of trained and saved models."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.training.batch_source import item_features
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL
from mmctr_pipeline_tests.training.small_sample import small_sample as small_training_sample

CPU = torch.device("cpu")
API_DOCUMENT = Path(__file__).parents[1] / "docs" / "python_api.md"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A dataset with its vectors, and a model trained on them."""

    dataset: CtrDataset
    vectors: ItemVectors
    result: TrainedCtr
    file: ModelFile

    def score_test(self, model: TrainedCtr | ModelFile) -> np.ndarray:
        return pipeline.score(model, self.dataset, self.dataset.test, self.vectors, CPU)


@pytest.fixture(scope="module")
def trained() -> Trained:
    dataset, vectors = small_training_sample()
    result = pipeline.train(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU)
    return Trained(dataset, vectors, result, small_model_file(result, vectors))


def _score_one_by_one(trained: Trained, rows: range) -> list[float]:
    """Score each row with the plain module, in a batch of its own."""
    test = trained.dataset.test
    items = item_features(trained.dataset.items, trained.vectors, SMALL_MODEL)

    def probability(row: int) -> float:
        history = torch.from_numpy(trained.dataset.histories[test.history[row]]).long()
        batch = Batch(
            user_id_B=torch.tensor([test.user_id[row]]).long(),
            item_id_B=torch.tensor([test.item_id[row]]).long(),
            likes_level_B=torch.tensor([test.likes_level[row]]).long(),
            views_level_B=torch.tensor([test.views_level[row]]).long(),
            history_T=history,
            history_offsets=torch.tensor([0, len(history)]),
            items=items,
        )
        with torch.no_grad():
            return float(torch.sigmoid(trained.result.module(batch)))

    return [probability(row) for row in rows]


def test_every_row_gets_its_own_probability_in_the_order_of_the_split(trained: Trained) -> None:
    scores = trained.score_test(trained.file)
    assert scores.shape == (len(trained.dataset.test),)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores.std() > 0.05
    # Scoring may multiply in bfloat16, as training did.
    np.testing.assert_allclose(scores[:25], _score_one_by_one(trained, range(25)), atol=0.02)


def test_trained_saved_and_loaded_models_score_the_same(trained: Trained, tmp_path: Path) -> None:
    trained.file.save(tmp_path / "model.pt")
    scores = trained.score_test(trained.result)
    np.testing.assert_array_equal(trained.score_test(trained.file), scores)
    loaded = ModelFile.load(tmp_path / "model.pt")
    np.testing.assert_array_equal(trained.score_test(loaded), scores)
    valid = pipeline.score(loaded, trained.dataset, trained.dataset.valid, trained.vectors, CPU)
    np.testing.assert_array_equal(valid, trained.result.valid_scores)


def test_vectors_other_than_those_of_training_are_refused(trained: Trained) -> None:
    other = dataclasses.replace(trained.vectors.fused, identity="pca128-raw:other")
    changed = dataclasses.replace(trained, vectors=ItemVectors(other))
    identity = trained.vectors.fused.identity
    with pytest.raises(ModelFileError, match=f"trained on fused vectors '{identity}'"):
        changed.score_test(trained.file)


def test_the_documented_example_goes_from_a_data_folder_to_scores(
    small_sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", API_DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "data").symlink_to(small_sample)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, str(API_DOCUMENT), "exec"), names)
    dataset, scores = names["dataset"], names["scores"]
    assert scores.shape == dataset.test.row_id.shape
    assert 0 <= scores.min() < scores.max() <= 1
    assert names["trained"].metrics["valid_auc"] > 0.6
    assert re.fullmatch(r"validation AUC 0\.\d{4}\n", capsys.readouterr().out)
    assert sorted(path.name for path in (tmp_path / "storage").iterdir()) == [
        "transforms",
        "vectors",
    ]

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError, build_module
from mmctr_pipeline.submission.files import SubmissionError
from mmctr_pipeline.submission.score import BelowAucFloorError, require_test_ids, score_test
from mmctr_pipeline.training.batches import item_features
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

CPU = torch.device("cpu")
Trained = tuple[ModelFile, CtrDataset, VectorTable]


@pytest.fixture(scope="module")
def trained() -> Trained:
    dataset, vectors = small_sample()
    # IDs that neither begin at 0 nor ascend: their order must be kept, not made.
    row_id = np.random.default_rng(1).permutation(len(dataset.test)).astype(np.int64) + 500
    dataset = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, row_id=row_id))
    result = train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, CPU, lambda line: None)
    model_file = ModelFile.from_trained(
        result,
        data_fingerprint=dataset.fingerprint,
        vector_identity=vectors.identity,
        encoder_identities={},
        transform_identity="pca",
        auc_floor=0.5,
        resolved_config={},
        run_key="",
    )
    return model_file, dataset, vectors


def one_by_one(trained: Trained, rows: range) -> list[float]:
    """Score single rows with the plain module, each in a batch of its own."""
    model_file, dataset, vectors = trained
    module, test = build_module(model_file), dataset.test
    items = item_features(dataset.items, vectors)

    def probability(row: int) -> float:
        history = torch.from_numpy(dataset.histories[test.history[row]]).long()
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
            return float(torch.sigmoid(module(batch)))

    return [probability(row) for row in rows]


def test_every_test_row_has_its_own_probability_in_the_order_of_the_file(trained: Trained) -> None:
    model_file, dataset, vectors = trained
    frame = score_test(model_file, dataset, vectors, CPU, lambda line: None)
    assert frame.columns == ["ID", "Task1&2"]
    assert frame["ID"].to_list() == dataset.test.row_id.tolist()  # type: ignore[union-attr]
    scores = frame["Task1&2"].to_numpy()
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores.std() > 0.05
    # The scores may be of bfloat16 products, as training was.
    np.testing.assert_allclose(scores[:25], one_by_one(trained, range(25)), atol=0.02)


def test_a_saved_model_scores_the_same(trained: Trained, tmp_path: Path) -> None:
    model_file, dataset, vectors = trained
    model_file.save(tmp_path / "model.pt")
    loaded = ModelFile.load(tmp_path / "model.pt")
    first = score_test(model_file, dataset, vectors, CPU, lambda line: None)
    assert score_test(loaded, dataset, vectors, CPU, lambda line: None).equals(first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auc_floor": 0.9999}, r"AUC 0\.\d{4} is below its floor 0\.9999"),
        ({"auc_floor": float("nan")}, "below its floor nan"),
        ({"metrics": {}}, "no usable valid_auc, valid_auc_low, valid_auc_high"),
        (
            {"metrics": {"valid_auc": float("nan"), "valid_auc_low": 0.7, "valid_auc_high": 0.8}},
            "no usable valid_auc;",
        ),
    ],
)
def test_a_model_below_its_floor_or_of_unknown_quality_is_refused(
    trained: Trained, changes: dict[str, object], message: str
) -> None:
    model_file, dataset, vectors = trained
    with pytest.raises(BelowAucFloorError, match=message):
        score_test(
            dataclasses.replace(model_file, **changes), dataset, vectors, CPU, lambda line: None
        )


def test_other_vectors_than_those_of_training_are_refused(trained: Trained) -> None:
    model_file, dataset, vectors = trained
    other = dataclasses.replace(vectors, identity="pca128-raw:other")
    with pytest.raises(ModelFileError, match="trained on vectors 'small-world-vectors'"):
        score_test(model_file, dataset, other, CPU, lambda line: None)


def test_damaged_weights_are_noticed(trained: Trained) -> None:
    model_file, dataset, vectors = trained
    weights = {
        name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
        for name, tensor in model_file.state_dict.items()
    }
    damaged = dataclasses.replace(model_file, state_dict=weights)
    with pytest.raises(SubmissionError, match="scores are no probabilities, the first nan in row"):
        score_test(damaged, dataset, vectors, CPU, lambda line: None)


def test_a_test_split_without_ids_is_refused(trained: Trained) -> None:
    model_file, dataset, vectors = trained
    without = dataclasses.replace(dataset, test=dataclasses.replace(dataset.test, row_id=None))
    with pytest.raises(SubmissionError, match="no column ID"):
        score_test(model_file, without, vectors, CPU, lambda line: None)


def test_a_dataset_of_other_test_rows_than_the_file_has_is_refused(trained: Trained) -> None:
    _, dataset, _ = trained
    row_id = dataset.test.row_id
    assert row_id is not None
    require_test_ids(dataset, row_id)
    for changed in (row_id[:-1], row_id[::-1]):
        with pytest.raises(SubmissionError, match="materialise train_dataset again"):
            require_test_ids(dataset, changed)

"""The final fit trains on train and valid rows up to the selected epoch, and changes no metric."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.training.batch_source import BatchSource, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.score import score
from mmctr_pipeline.training.stopping import EarlyStopping, StoppingPolicy
from mmctr_pipeline.training.trainer import CtrTrainer
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

CPU = torch.device("cpu")
TRAINING = TrainingConfig(
    seed=1,
    max_epochs=6,
    batch_size=128,
    patience=1,
    validations_per_epoch=2,
    precision="float32",
    restart_epochs=1,
    learning_rate=0.003,
)
ROWS = {"n_train": 700, "n_valid": 300}


def train(config: TrainingConfig) -> TrainedCtr:
    return train_ctr(*small_sample(**ROWS), SMALL_MODEL, config, CPU)


@pytest.fixture(name="selected", scope="module")
def selection_alone() -> TrainedCtr:
    return train(TRAINING)


@pytest.fixture(name="final", scope="module")
def with_final_fit() -> TrainedCtr:
    return train(dataclasses.replace(TRAINING, final_fit=True))


def test_metrics_scores_and_history_are_those_of_the_selection_run(
    selected: TrainedCtr, final: TrainedCtr
) -> None:
    for name in set(selected.metrics) - {"train_rows_per_second"}:
        assert final.metrics[name] == selected.metrics[name], name
    assert final.evaluation == selected.evaluation
    assert np.array_equal(final.valid_scores, selected.valid_scores)
    assert final.history.best_epoch == selected.history.best_epoch
    assert [r.metrics for r in final.history.epochs] == [r.metrics for r in selected.history.epochs]
    assert selected.final_fit is None


def concatenated(first: Split, second: Split) -> Split:
    """Return the rows of two splits with labels, column by column."""
    assert first.label is not None
    assert second.label is not None
    return Split(
        user_id=np.concatenate([first.user_id, second.user_id]),
        item_id=np.concatenate([first.item_id, second.item_id]),
        history=np.concatenate([first.history, second.history]),
        likes_level=np.concatenate([first.likes_level, second.likes_level]),
        views_level=np.concatenate([first.views_level, second.views_level]),
        label=np.concatenate([first.label, second.label]),
    )


def test_the_model_is_trained_on_train_and_valid_rows(
    selected: TrainedCtr, final: TrainedCtr
) -> None:
    """The reference is a run on both splits with the validation metrics of the selection run."""
    history = selected.history
    n_parts = round(history.best_epoch * 2)
    assert 1 < n_parts < len(history.epochs)
    values = iter([record.metrics["valid_auc"] for record in history.epochs])
    weights: list[dict[str, torch.Tensor]] = []

    def repeat(module: torch.nn.Module) -> dict[str, float]:
        weights.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return {"valid_auc": next(values)}

    class Repeating(CtrTrainer):
        def stopping(self, selection: TrainingHistory | None = None) -> StoppingPolicy:
            return EarlyStopping(repeat, "valid_auc", TRAINING)

    dataset, vectors = small_sample(**ROWS)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    trainer = Repeating(dataset, items, selected.spec, SMALL_MODEL, TRAINING, CPU)
    trainer.fit(concatenated(dataset.train, dataset.valid))
    for name, tensor in final.module.state_dict().items():
        assert torch.equal(tensor, weights[n_parts - 1][name]), name

    assert final.final_fit is not None
    assert final.final_fit.n_rows == 1000
    assert final.final_fit.n_epochs == history.best_epoch
    assert final.final_fit.seconds > 0
    assert not final.module.training


def test_the_returned_model_does_not_reproduce_the_recorded_valid_scores(final: TrainedCtr) -> None:
    dataset, vectors = small_sample(**ROWS)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    source = BatchSource(dataset.valid, dataset.histories, items, CPU)
    assert not np.array_equal(score(final.module, source, "float32"), final.valid_scores)


def epoch_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if ": train loss" in line]


def test_log_lines_say_whether_they_belong_to_selection_or_final_fit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    final = train(dataclasses.replace(TRAINING, max_epochs=2, final_fit=True))
    assert final.final_fit is not None
    n_selection = len(final.history.epochs)
    selection, final_fit = epoch_lines(caplog)[:n_selection], epoch_lines(caplog)[n_selection:]
    assert all(line.startswith("selection: epoch ") for line in selection)
    assert all(line.startswith("final fit: epoch ") for line in final_fit)
    assert len(final_fit) == round(2 * final.final_fit.n_epochs)
    assert not any("valid_auc" in line or "best" in line for line in final_fit)
    assert "final fit: 1,000 train and valid rows" in caplog.text


def test_log_lines_without_a_final_fit_name_no_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    train(dataclasses.replace(TRAINING, max_epochs=1))
    assert all(line.startswith("epoch ") for line in epoch_lines(caplog))
    assert not any(line.startswith(("selection", "final fit")) for line in caplog.messages)


def with_new_item_and_user(dataset: CtrDataset, item: int, user: int) -> CtrDataset:
    """Return the dataset with an item and a user that occur in one valid row and nowhere else."""
    valid = dataclasses.replace(
        dataset.valid,
        item_id=dataset.valid.item_id.copy(),
        user_id=dataset.valid.user_id.copy(),
    )
    valid.item_id[5], valid.user_id[5] = item, user
    items = dataset.items
    extended = dataclasses.replace(
        items,
        ids=np.append(items.ids, item),
        item_id=np.append(items.item_id, np.int32(item)),
        likes_level=np.append(items.likes_level, np.int8(0)),
        views_level=np.append(items.views_level, np.int8(0)),
        tags=Ragged.from_lists([[1]] * (len(items) + 1)),
    )
    return dataclasses.replace(dataset, valid=valid, items=extended)


@pytest.mark.parametrize("final_fit", [False, True])
def test_only_the_final_fit_takes_statistics_from_valid_rows(final_fit: bool) -> None:
    dataset, vectors = small_sample(n_train=300, n_valid=200)
    dataset = with_new_item_and_user(dataset, item=61, user=500)
    training = dataclasses.replace(TRAINING, max_epochs=1, final_fit=final_fit)
    state = train_ctr(dataset, vectors, DinConfig(), training, CPU).module.state_dict()
    assert bool(state["features.known_items_I"][61]) is final_fit
    assert bool(state["features.known_users_U"][500]) is final_fit


def test_in_batch_negatives_are_not_memorised() -> None:
    config = dataclasses.replace(TRAINING, patience=6, learning_rate=0.02)
    plain, in_batch, again = (
        train(dataclasses.replace(config, in_batch_negatives=share)).history.epochs[-1].train_loss
        for share in (0.0, 1.0, 1.0)
    )
    assert in_batch > plain + 0.05
    assert in_batch == again

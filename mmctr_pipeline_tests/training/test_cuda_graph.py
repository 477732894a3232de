"""A captured step trains as a plain one; where there is no CUDA device, nothing can be captured."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline_tests.training.small_world import SMALL_MODEL, small_world

MODEL = dataclasses.replace(SMALL_MODEL, dropout=0.0, multimodal_dropout=0.0)


def trained(cuda_graph: bool, device: str, optimizer: str = "row_adamw") -> TrainedCtr:
    training = TrainingConfig(
        max_epochs=3,
        batch_size=128,
        precision="float32",
        cuda_graph=cuda_graph,
        optimizer=optimizer,
        validations_per_epoch=2,
    )
    # Of 4,000 rows the last batch is smaller: it is of another shape.
    return train_ctr(*small_world(), MODEL, training, torch.device(device), lambda line: None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["row_adamw", "adamw"])
def test_captured_and_plain_steps_train_alike(optimizer: str) -> None:
    histories = [trained(graph, "cuda:0", optimizer).history.epochs for graph in (True, False)]
    for captured, plain in zip(*histories, strict=True):
        # Sums on the device are not always taken in the same order.
        assert captured.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
        assert captured.learning_rate == plain.learning_rate
        assert captured.metrics["valid_auc"] == pytest.approx(plain.metrics["valid_auc"], abs=0.01)


def test_the_setting_has_no_effect_on_the_cpu() -> None:
    captured, plain = (trained(graph, "cpu") for graph in (True, False))
    for name, tensor in captured.module.state_dict().items():
        assert torch.equal(tensor, plain.module.state_dict()[name]), name

"""Replayed steps train like plain ones: bit by bit on a stand-in, approximately on a GPU."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.layers import dropout
from mmctr_pipeline.models.layers.embedding import padded_distinct_rows
from mmctr_pipeline.training import batch_source
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.cuda_graph import GraphedStep
from mmctr_pipeline.training.losses import ctr_loss, redrawn_logits
from mmctr_pipeline.training.optimizers import row_adamw
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline.training.optimizers.schedules import build_scheduler
from mmctr_pipeline.training.step import TrainStep
from mmctr_pipeline_tests.presets.test_same_seed import ENTRIES, narrow
from mmctr_pipeline_tests.training.recorded_graph import RecordedGraph, pretend_cuda
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

CPU = torch.device("cpu")
N_BATCHES = 8
WARNING = "training continues without the CUDA graph"

CONFIG = TrainingConfig(
    precision="float32", in_batch_negatives=0.5, embedding_weight_decay=0.01, restart_epochs=2
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a CUDA device, and use the code that runs on CUDA instead of the CPU's."""
    pretend_cuda(monkeypatch)
    monkeypatch.setattr(row_adamw, "distinct_rows", padded_distinct_rows)
    monkeypatch.setattr(dropout.Dropout, "forward", torch.nn.Dropout.forward)
    monkeypatch.setattr(batch_source, "_LEAST_SPARE_STEP", 1024)  # one shape for all batches


def weights_after_two_epochs(
    config: TrainingConfig, cuda_graph: bool, left_out: str = ""
) -> dict[str, torch.Tensor]:
    """Train a small model; return its weights and gradient norms.

    The learning rates are in tensors, as on CUDA, and lower in epoch 2.

    `left_out` names tensors that the check of the first replay neither saves nor restores.
    """
    dataset, vectors = small_sample(n_train=64 * N_BATCHES)
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    torch.manual_seed(0)
    model = build_model(SMALL_MODEL, feature_spec(dataset, vectors, SMALL_MODEL))
    model.fit_statistics(items, dataset.train, dataset.histories)
    optimizers = Optimizers(model, model.parameter_groups(), config)
    for group in (group for member in optimizers.members for group in member.param_groups):
        group["lr"] = torch.tensor(group["lr"])
    redrawn_I = redrawn_logits(dataset.train, config.redrawn_share, len(items.present_I))

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return ctr_loss(model, batch, config, redrawn_I)

    plain_step = TrainStep(model, loss, optimizers, config, CPU, None)
    if left_out:
        tensors = plain_step.tensors
        plain_step.tensors = lambda: {  # type: ignore[method-assign]
            name: group for name, group in tensors().items() if name != left_out
        }
    step = GraphedStep(plain_step, CPU) if cuda_graph else plain_step
    source = BatchSource(dataset.train, dataset.histories, items, CPU)
    for epoch in (1, 2):
        model.train()
        for batch in source.shuffled(64, seed=0, epoch=epoch):
            step(batch, lambda loss: None)
        model.eval()
        optimizers.after_validation(0.5, epoch_ended=True)
    optimizers.release()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    norms = torch.cat([norm.double() for norm in plain_step.gradient_norms.tensors])
    return {**weights, "gradient norms": norms}


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("optimizer", ["row_adamw", "adamw", "adam"])
def test_replays_train_as_plain_steps_do(
    optimizer: str, cuda: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The steps include dropout, negatives, decay, BatchNorm and a change of the learning rate."""
    replays = []
    replay = RecordedGraph.replay
    monkeypatch.setattr(
        RecordedGraph, "replay", lambda graph: (replays.append(graph), replay(graph))
    )
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    plain, graphed = (weights_after_two_epochs(config, graph) for graph in (False, True))
    assert different(plain, graphed) == []
    assert len(replays) == 2 * N_BATCHES - 4
    assert caplog.text == ""


@pytest.mark.parametrize(
    "left_out",
    [
        "parameters",
        "buffers",
        "exp_avg",
        "exp_avg_sq",
        "step",
        "first moments of rows",
        "second moments of rows",
        "last updates of rows",
        "clocks",
        "gradient norms",
    ],
)
def test_the_check_restores_every_tensor_that_a_step_changes(left_out: str, cuda: None) -> None:
    plain = weights_after_two_epochs(CONFIG, cuda_graph=False)
    assert different(plain, weights_after_two_epochs(CONFIG, cuda_graph=True, left_out=left_out))


@pytest.mark.parametrize("schedule", ["cosine_restarts", "cosine", "plateau", "constant"])
def test_schedules_write_their_rates_into_tensors_that_a_graph_reads(schedule: str) -> None:
    config = TrainingConfig(schedule=schedule, max_epochs=5)
    rates = []
    for rate in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
        scheduler = build_scheduler(optimizer, config)
        for metric in (0.7, 0.6, 0.5):
            optimizer.step()
            scheduler.step(*[metric] if schedule == "plateau" else [])
        rates.append(float(optimizer.param_groups[0]["lr"]))
    assert optimizer.param_groups[0]["lr"] is rate
    assert rates[0] == pytest.approx(rates[1])


def trained(
    cuda_graph: bool, device: str, optimizer: str = "row_adamw", n_train: int = 4000
) -> TrainedCtr:
    """Train a small model; the last batch is smaller and so has another shape."""
    model = dataclasses.replace(SMALL_MODEL, dropout=0.0, multimodal_dropout=0.0)
    training = TrainingConfig(
        max_epochs=3,
        batch_size=128,
        precision="float32",
        cuda_graph=cuda_graph,
        optimizer=optimizer,
        validations_per_epoch=2,
    )
    return train_ctr(*small_sample(n_train), model, training, torch.device(device))


def test_the_cuda_graph_setting_has_no_effect_on_the_cpu() -> None:
    captured, plain = (
        trained(graph, "cpu", n_train=500).module.state_dict() for graph in (True, False)
    )
    assert different(captured, plain) == []


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", ["row_adamw", "adamw"])
def test_captured_and_plain_steps_train_alike_on_cuda(
    optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    histories = [trained(graph, "cuda:0", optimizer).history.epochs for graph in (True, False)]
    for captured, plain in zip(*histories, strict=True):
        # Sums on the device are not always taken in the same order.
        assert captured.train_loss == pytest.approx(plain.train_loss, rel=1e-3)
        assert captured.learning_rate == plain.learning_rate
        assert captured.metrics["valid_auc"] == pytest.approx(plain.metrics["valid_auc"], abs=0.01)
    assert WARNING not in caplog.text


@pytest.mark.cuda
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_preset_keeps_its_graph_on_cuda(
    entry: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, vectors = small_sample(n_train=2000, n_valid=500)
    table, preset = vectors.fused, entry.preset
    trained = train_ctr(
        dataset,
        ItemVectors(table, text=table, image=table),
        narrow(preset.model),
        dataclasses.replace(preset.training, max_epochs=2, batch_size=128, final_fit=False),
        torch.device("cuda:0"),
    )
    assert WARNING not in caplog.text
    assert trained.metrics["valid_auc"] > 0.4

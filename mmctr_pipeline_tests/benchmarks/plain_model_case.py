"""Compares one of our models with its plain, padded form on the same weights and rows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model_speed import Comparison
from benchmarks.plain_models import PaddedRows, padded_batches, take_weights
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import FeatureConfig, ModelConfig
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline_tests.training.small_sample import small_sample

CPU = torch.device("cpu")
WIDTH, N_ROWS = 5, 300
FEATURES = FeatureConfig(
    vector_projection=True, embedding_dim=8, level_embedding_dim=4, max_history=WIDTH
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Our model and the plain form, with the same rows in both batches."""

    ours: CtrModel
    plain: torch.nn.Module
    batch: Batch
    rows: dict[str, torch.Tensor]
    length_N: np.ndarray


def sample_dataset() -> tuple[CtrDataset, ItemVectors]:
    """Return a dataset with tags, items absent from train, and both empty and long histories."""
    dataset, vectors = small_sample(n_train=12, n_valid=N_ROWS)
    generator = np.random.default_rng(1)
    tags = [generator.integers(1, 9, n).tolist() for n in generator.integers(0, 4, 60)]
    items = dataclasses.replace(dataset.items, tags=Ragged.from_lists(tags))
    return dataclasses.replace(dataset, items=items), vectors


def build_pair(comparison: Comparison, config: ModelConfig) -> Pair:
    """Return both forms in evaluation mode, with random weights and statistics."""
    dataset, vectors = sample_dataset()
    items = item_features(dataset.items, vectors, config)
    torch.manual_seed(1)
    ours = build_model(config, feature_spec(dataset, vectors, config))
    ours.fit_statistics(items, dataset.train, dataset.histories)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.5)
        for layer in ours.modules():
            if isinstance(layer, torch.nn.Embedding) and layer.padding_idx is not None:
                layer.weight[layer.padding_idx] = 0
        for name, buffer in ours.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    ours.eval()  # gives untrained rows the mean of the trained ones
    plain = comparison.plain_form(config, ours, items)
    take_weights(plain, ours)

    source = BatchSource(dataset.valid, dataset.histories, items, CPU, WIDTH)
    padded = PaddedRows(dataset.valid, dataset.histories, WIDTH)
    return Pair(
        ours,
        plain.eval(),
        next(iter(source.in_order(N_ROWS))),
        next(iter(padded_batches(padded, N_ROWS, CPU, shuffle=False))),
        np.minimum(dataset.histories.lengths[dataset.valid.history], WIDTH),
    )


def assert_same_model(pair: Pair) -> None:
    """Assert equal logits in evaluation mode, and equal gradients in training mode in float64.

    The settings must have no dropout, with which the gradients would differ.
    """
    assert not pair.length_N.all()
    assert pair.length_N.max() == WIDTH
    known_I = pair.ours.get_buffer("features.known_items_I")
    assert not known_I[pair.batch.item_id_B].all()
    assert not known_I[pair.batch.history_T].all()
    with torch.no_grad():
        ours_B, plain_B = pair.ours(pair.batch), pair.plain(pair.rows)
    assert ours_B.std() > 0.1
    # Up to float32 rounding of sums as large as the logits.
    scale = max(float(ours_B.abs().max()), 1)
    torch.testing.assert_close(plain_B, ours_B, atol=1e-5 * scale, rtol=0)
    n_ours, n_plain = (
        sum(parameter.numel() for parameter in model.parameters())
        for model in (pair.ours, pair.plain)
    )
    assert n_plain == n_ours

    ours, plain = pair.ours.train().double(), pair.plain.train().double()
    for model, batch in ((ours, pair.batch), (plain, pair.rows)):
        logits_B = model(batch)
        weight_B = torch.linspace(-1, 1, len(logits_B), dtype=torch.float64)
        (logits_B * weight_B).mean().backward()
    for p_plain, p_ours in zip(plain.parameters(), ours.parameters(), strict=True):
        assert p_plain.grad is not None
        assert p_ours.grad is not None
        largest = max(float(p_ours.grad.abs().max()), 1e-3)
        torch.testing.assert_close(p_plain.grad, p_ours.grad, atol=1e-9 * largest, rtol=0)


def dropout_rates(module: torch.nn.Module) -> list[float]:
    """Return the rates of all dropout layers that drop anything, in order."""
    return [m.p for m in module.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]


def count_operations(run: Callable[[], Any]) -> float:
    """Return torch's count of the operations in matrix products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        run().sum().backward()
    return counter.get_total_flops()

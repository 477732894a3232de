"""QIN equals the published formulas on padded histories and has the published size."""

import dataclasses
import math

import pytest
import torch

from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import QinConfig
from mmctr_pipeline.models.qin import Qin
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline_tests.models.padded_case import (
    assert_same_logits_and_gradients,
    batch_norm,
    exact_batch,
    exact_model,
    padded_features,
)
from mmctr_pipeline_tests.models.zoo import FEATURES

N_ROWS = 3
DETERMINISTIC = dataclasses.replace(FEATURES, unknown_rate=0.0)
"""Features that draw nothing at random in training."""


def plain_logits(model: Qin, batch: Batch) -> torch.Tensor:
    """QIN as published, with padded histories and one quadratic product after another."""
    target_BD, history_BLD, mask_BL, context_BC = padded_features(model.features, batch)
    weight = dict(model.named_parameters())
    query_BA = target_BD @ weight["attention.query.weight"].T
    key_BLA = history_BLD @ weight["attention.key.weight"].T
    value_BLA = history_BLD @ weight["attention.value.weight"].T
    scores_BL = (key_BLA * query_BA[:, None]).sum(-1) / math.sqrt(2 * target_BD.shape[1])
    weight_BL = torch.relu(scores_BL) * mask_BL
    found_BA = (weight_BL[..., None] * value_BLA).sum(1)
    interest_BD = found_BA @ weight["attention.output.weight"].T + target_BD

    x_BF = torch.cat([context_BC, target_BD, interest_BD], dim=1)
    dim = x_BF.shape[1]
    for depth, block in enumerate(model.quadratic):
        rows_weight = weight[f"quadratic.{depth}.quadratic.rows.weight"]
        rows_bias = weight[f"quadratic.{depth}.quadratic.rows.bias"]
        assert len(rows_weight) == N_ROWS * dim
        quadratic_BF = torch.zeros_like(x_BF)
        for row in range(N_ROWS):
            part = slice(row * dim, (row + 1) * dim)
            quadratic_BF = quadratic_BF + x_BF * (x_BF @ rows_weight[part].T + rows_bias[part])
        normed_BF = batch_norm(block.norm, quadratic_BF)
        slope = weight[f"quadratic.{depth}.activation.weight"]
        x_BF = x_BF + torch.where(normed_BF > 0, normed_BF, slope * normed_BF)
    return x_BF @ weight["output.weight"][0] + weight["output.bias"]


@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_equal_the_published_formulas(training: bool) -> None:
    config = QinConfig(features=DETERMINISTIC, n_layers=2, n_rows=N_ROWS, dropout=0.0)
    model, batch = exact_model(config).train(training), exact_batch(20)
    assert isinstance(model, Qin)
    assert_same_logits_and_gradients(model, model(batch), plain_logits(model, batch))


def test_the_preset_has_the_parameter_count_of_the_published_run() -> None:
    spec = FeatureSpec(
        n_users=1_000_001, n_items=91_718, vector_dim=128, n_tags=11_740, n_levels=11
    )
    with torch.device("meta"):
        model = build_model(load_preset("qin").model, spec)
    # The count of the published log; ours also has a row for unknown items.
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_244_293 + 128


def test_row_dropout_acts_in_training_only() -> None:
    config = QinConfig(features=DETERMINISTIC, n_layers=1, dropout=0.0, row_dropout=0.5)
    model, batch = exact_model(config), exact_batch(20)
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))

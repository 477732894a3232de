"""The benchmark's plain Transformer_DCN is the same model as ours."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.model_speed import settings
from benchmarks.transformer_dcn import TRANSFORMER_DCN
from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline_tests.benchmarks.plain_model_case import (
    FEATURES,
    assert_same_model,
    build_pair,
    dropout_rates,
)

pytestmark = pytest.mark.bench

SMALL = TransformerDcnConfig(
    features=FEATURES,
    n_heads=2,
    feed_forward_dim=8,
    transformer_dropout=0.0,
    kept_positions=3,
    cross_layers=2,
    hidden_dims=(16, 8),
    dropout=0.0,
    head_hidden_dims=(8, 4),
)


def test_the_plain_form_has_our_logits_and_gradients_with_our_weights() -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    assert_same_model(build_pair(TRANSFORMER_DCN, SMALL))


def test_the_plain_form_has_dropout_in_the_same_places_as_ours() -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    config = dataclasses.replace(SMALL, transformer_dropout=0.5, dropout=0.25)
    plain = build_pair(TRANSFORMER_DCN, config).plain
    # Each of the two layers drops the attention's output, hidden units and feed-forward output,
    # and, by a rate of the attention module, the attention weights.
    assert dropout_rates(plain.get_submodule("encoder")) == [0.5] * 6
    attentions = [m for m in plain.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    assert [attention.dropout for attention in attentions] == [0.5, 0.5]
    assert dropout_rates(plain.get_submodule("deep")) == [0.25, 0.25]
    assert dropout_rates(plain.get_submodule("head")) == []


def test_each_use_of_a_weight_counts_six_operations() -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    ours = build_pair(TRANSFORMER_DCN, SMALL).ours
    item_dim = 8 + 8 + 12
    pair_dim = 2 * item_dim
    always = pair_dim + item_dim + 2 * 4
    expected = []
    for length in (0, 2, 5):
        width = always + min(length, 3) * pair_dim
        per_position = 2 * (4 * pair_dim**2 + 2 * pair_dim * 8 + 2 * pair_dim * length)
        cross, deep = 2 * width**2, width * 16 + 16 * 8
        head = (8 + width) * 8 + 8 * 4 + 4
        expected.append(6 * (length * per_position + pair_dim**2 + cross + deep + head))
        found = TRANSFORMER_DCN.operations_per_row(ours, np.array([length]))
        assert found == pytest.approx(expected[-1])
    found = TRANSFORMER_DCN.operations_per_row(ours, np.array([0, 2, 5]))
    assert found == pytest.approx(np.mean(expected))


def test_settings_come_from_the_preset_except_batch_size_and_history_length() -> None:
    config, training = settings(TRANSFORMER_DCN, TRANSFORMER_DCN.batch_size)
    assert isinstance(config, TransformerDcnConfig)
    assert (config.kept_positions, config.features.max_history) == (16, 64)
    assert (training.batch_size, training.optimizer) == (512, "adam")

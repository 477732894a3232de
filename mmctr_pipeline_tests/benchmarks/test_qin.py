"""The benchmark's plain QIN is the same model as ours."""

import dataclasses

import pytest

from benchmarks.model_speed import settings
from benchmarks.qin import QIN, PlainQin
from mmctr_pipeline.models.config import QinConfig
from mmctr_pipeline_tests.benchmarks.plain_model_case import (
    FEATURES,
    assert_same_model,
    build_pair,
    dropout_rates,
)

pytestmark = pytest.mark.bench

SMALL = QinConfig(features=FEATURES, n_layers=2, n_rows=3, dropout=0.0)


@pytest.fixture(autouse=True)
def fuxictr() -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")


def test_the_plain_form_has_our_logits_and_gradients_with_our_weights() -> None:
    assert_same_model(build_pair(QIN, SMALL))


def test_the_plain_form_has_dropout_in_the_same_places_as_ours() -> None:
    plain = build_pair(QIN, dataclasses.replace(SMALL, dropout=0.25)).plain
    # One after each of the two quadratic layers.
    assert dropout_rates(plain) == [0.25, 0.25]


def test_each_use_of_a_weight_counts_six_operations() -> None:
    pair = build_pair(QIN, SMALL)
    item_dim = 8 + 8 + 12
    dim = 2 * 4 + 2 * item_dim
    per_row = 4 * item_dim * 2 * item_dim + 2 * dim**2 + dim
    expected = 6 * (per_row + pair.length_N.mean() * 2 * item_dim)
    assert QIN.operations_per_row(pair.ours, pair.length_N) == pytest.approx(expected)


def test_settings_come_from_the_preset_and_row_dropout_is_refused() -> None:
    config, training = settings(QIN)
    assert isinstance(config, QinConfig)
    assert (config.row_dropout, config.features.max_history) == (0.0, 64)
    assert (training.batch_size, training.optimizer) == (8192, "adam")
    pair = build_pair(QIN, SMALL)
    with pytest.raises(ValueError, match="row_dropout"):
        PlainQin(dataclasses.replace(SMALL, row_dropout=0.1), pair.ours, pair.batch.items)

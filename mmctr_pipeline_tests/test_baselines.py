"""Baseline scores equal those of plain loops over rows, and are compared with a model's scores."""

import dataclasses
import math
import statistics

import numpy as np
import pytest

from mmctr_pipeline import metrics
from mmctr_pipeline.baselines import baseline_scores, compare_with_baselines
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline_tests.training.small_sample import small_sample


@pytest.fixture(scope="module")
def small() -> tuple[CtrDataset, ItemVectors]:
    """A dataset. Users of its first 300 valid rows are in train, and no train row has item 60."""
    dataset, vectors = small_sample(n_train=3000, n_valid=800)
    users = dataset.valid.user_id.copy()
    users[:300] = dataset.train.user_id[:300]
    valid = dataclasses.replace(dataset.valid, user_id=users)
    train = dataset.train.take(dataset.train.item_id != 60)
    return dataclasses.replace(dataset, train=train, valid=valid), vectors


def _smoothed_logit(label: np.ndarray, rows: np.ndarray, smoothing: float) -> float:
    rate = (label[rows].sum() + smoothing * label.mean()) / (rows.sum() + smoothing)
    return math.log(rate / (1 - rate)) - math.log(label.mean() / (1 - label.mean()))


def test_popularity_and_rates_follow_from_train_rows(
    small: tuple[CtrDataset, ItemVectors],
) -> None:
    dataset, vectors = small
    train, valid = dataset.train, dataset.valid
    assert train.label is not None
    scores = baseline_scores(dataset, valid, vectors.fused).scores
    for row in range(0, len(valid), 7):
        of_item, of_user = (
            train.item_id == valid.item_id[row],
            train.user_id == valid.user_id[row],
        )
        assert scores["popularity"][row] == train.label[of_item].sum()
        item = _smoothed_logit(train.label, of_item, 5)
        assert scores["rates"][row] == pytest.approx(
            item + _smoothed_logit(train.label, of_user, 10), abs=1e-12
        )
    cold = valid.item_id == 60
    assert cold.any()
    assert not scores["popularity"][cold].any()


def test_cosine_is_the_mean_over_the_items_of_the_history_that_have_a_title(
    small: tuple[CtrDataset, ItemVectors],
) -> None:
    dataset, vectors = small
    text = vectors.fused
    found = baseline_scores(dataset, dataset.valid, text).scores["cosine"]
    vector = dict(zip(text.item_id.tolist(), text.vectors.astype(np.float64), strict=True))
    titled = set(text.item_id[text.present].tolist())
    expected = []
    for target, history in zip(dataset.valid.item_id, dataset.valid.history, strict=True):
        cosines = [
            vector[target] @ vector[item] / np.linalg.norm(vector[target]) / np.linalg.norm(other)
            for item in dataset.histories[history].tolist()
            for other in [vector[item]]
            if item in titled and target in titled
        ]
        expected.append(np.mean(cosines) if cosines else np.nan)
    undefined = np.isnan(expected)
    assert undefined.any()
    np.testing.assert_allclose(found[~undefined], np.array(expected)[~undefined], atol=1e-6)
    np.testing.assert_allclose(found[undefined], np.nanmean(expected), atol=1e-6)


def test_undefined_baselines_are_left_out_and_the_reason_is_given(
    small: tuple[CtrDataset, ItemVectors],
) -> None:
    dataset, vectors = small
    without_vectors = dataclasses.replace(
        vectors.fused,
        vectors=np.zeros_like(vectors.fused.vectors),
        present=np.zeros_like(vectors.fused.present),
    )
    for text in (None, without_vectors):
        without_titles = baseline_scores(dataset, dataset.valid, text)
        assert set(without_titles.scores) == {"popularity", "rates"}
        assert "no row has title vectors" in without_titles.absent["cosine"]
    clicks_only = dataset.train.take(dataset.train.label == 1)
    one_class = baseline_scores(
        dataclasses.replace(dataset, train=clicks_only), dataset.valid, vectors.fused
    )
    assert set(one_class.scores) == {"cosine"}
    assert set(one_class.absent) == {"popularity", "rates"}


def test_a_model_is_compared_with_each_baseline_on_the_same_rows(
    small: tuple[CtrDataset, ItemVectors],
) -> None:
    dataset, vectors = small
    label = dataset.valid.label
    assert label is not None
    baselines = baseline_scores(dataset, dataset.valid, vectors.fused)
    model = label + np.random.default_rng(1).normal(size=len(label))
    compared = compare_with_baselines(label, model, baselines)
    assert compared.absent == {}
    assert set(compared.metrics) == {
        *("baseline_popularity_auc", "baseline_rates_auc", "baseline_cosine_auc"),
    }
    for key, comparison in compared.compared.items():
        area = metrics.auc(label, baselines.scores[key])
        assert compared.metrics[f"baseline_{key}_auc"] == comparison.auc == area
        assert comparison.difference == pytest.approx(metrics.auc(label, model) - area, abs=1e-12)
        error = metrics.compare_auc(label, model, baselines.scores[key]).standard_error
        quantile = statistics.NormalDist().inv_cdf(0.95)
        assert comparison.low == pytest.approx(comparison.difference - quantile * error, abs=1e-12)
    single = np.zeros(len(label))
    single[0] = 1
    alone = compare_with_baselines(single, model, baselines)
    assert alone.compared == {}
    assert "two rows of each class" in alone.absent["rates"]

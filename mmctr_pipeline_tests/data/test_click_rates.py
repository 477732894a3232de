"""Counts and smoothed click rates equal those computed by hand from the rows."""

import math

import numpy as np
import pytest

from mmctr_pipeline.data.click_rates import ClickCounts

IDS = np.array([1, 1, 1, 3, 3, 4, 4, 4, 4, 4], np.int32)
LABEL = np.array([1, 0, 1, 0, 0, 1, 1, 1, 1, 1], np.int8)


def _logit(rate: float) -> float:
    return math.log(rate / (1 - rate))


@pytest.mark.parametrize("smoothing", [5.0, 10.0])
def test_logits_of_smoothed_click_rates_are_relative_to_the_mean(smoothing: float) -> None:
    counts = ClickCounts.count(IDS, LABEL)
    mean = LABEL.mean()
    for wanted in (0, 1, 2, 3, 4, 99):
        labels = [label for label, id in zip(LABEL, IDS, strict=True) if id == wanted]
        rate = (sum(labels) + smoothing * mean) / (len(labels) + smoothing)
        logit = counts.logits(np.array([wanted]), smoothing)
        assert logit == pytest.approx(_logit(rate) - _logit(mean), abs=1e-12)
        assert counts.n_rows(np.array([wanted])) == len(labels)


def test_ids_without_rows_get_the_mean_click_rate() -> None:
    counts = ClickCounts.count(IDS, LABEL, n_ids=50)
    assert len(counts.n_rows_I) == len(counts.n_clicks_I) == 50
    assert counts.logits(np.array([2, 49, 50, 10**6]), 5.0).tolist() == [0.0] * 4


@pytest.mark.parametrize("label", [None, np.ones(10, np.int8), np.zeros(10, np.int8)])
def test_labels_of_one_class_or_no_labels_at_all_are_refused(label: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="click rates need"):
        ClickCounts.count(IDS, label)

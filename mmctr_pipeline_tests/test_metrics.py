"""AUC and its interval, comparison, groups, log-loss and calibration, against plain references."""

import math

import numpy as np
import pytest

from mmctr_pipeline.metrics import (
    MetricError,
    auc,
    auc_interval,
    calibration,
    compare_auc,
    equal_mass_bins,
    grouped_auc,
    log_loss,
)


def wins(positive: float, negative: float) -> float:
    if positive == negative:
        return 0.5
    return 1.0 if positive > negative else 0.0


def plain_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [wins(p, n) for p in scores[labels == 1].tolist() for n in scores[labels == 0].tolist()]
    return sum(pairs) / len(pairs)


def plain_covariance(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Return the covariance of two AUCs by the equations printed in DeLong et al. (1988)."""

    def kernel(scores: np.ndarray) -> np.ndarray:
        positives, negatives = scores[labels == 1].tolist(), scores[labels == 0].tolist()
        return np.array([[wins(p, n) for n in negatives] for p in positives])

    kernel_a, kernel_b = kernel(a), kernel(b)
    n_positive, n_negative = kernel_a.shape
    s10 = np.cov(kernel_a.mean(1), kernel_b.mean(1), ddof=1)[0, 1]
    s01 = np.cov(kernel_a.mean(0), kernel_b.mean(0), ddof=1)[0, 1]
    return s10 / n_positive + s01 / n_negative


def sample(seed: int, n_rows: int = 150, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and scores with many ties."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n_rows) < 0.3).astype(np.int8)
    scores = np.round((labels + generator.normal(0, 1.2, n_rows)) * levels / 6) / levels
    return labels, scores.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_a_tied_pair_as_half(seed: int) -> None:
    labels, scores = sample(seed)
    assert auc(labels, scores) == pytest.approx(plain_auc(labels, scores), abs=1e-14)


def test_auc_of_hand_counted_cases() -> None:
    assert auc([0, 1], [0.2, 0.8]) == 1.0
    assert auc([1, 0], [0.2, 0.8]) == 0.0
    assert auc([0, 1, 1, 0], [0.5, 0.5, 0.5, 0.5]) == 0.5
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75


def test_auc_is_exact_beyond_the_precision_of_float32() -> None:
    n_rows = 300_000
    labels = np.zeros(n_rows, np.int8)
    labels[-1] = 1
    scores = np.arange(n_rows, dtype=np.float64)
    scores[-1] = 0.5
    assert auc(labels, scores) == 1 / (n_rows - 1)


@pytest.mark.parametrize("seed", range(5))
def test_interval_follows_the_equations_of_delong(seed: int) -> None:
    labels, scores = sample(seed)
    interval = auc_interval(labels, scores)
    error = math.sqrt(plain_covariance(labels, scores, scores))
    assert interval.auc == pytest.approx(plain_auc(labels, scores), abs=1e-12)
    assert interval.standard_error == pytest.approx(error, rel=1e-10)
    assert interval.low == pytest.approx(interval.auc - 1.959964 * error, abs=1e-7)
    assert interval.high == pytest.approx(min(interval.auc + 1.959964 * error, 1.0), abs=1e-7)
    assert (interval.n_positive, interval.n_negative) == (labels.sum(), (1 - labels).sum())


def test_standard_error_agrees_with_the_bootstrap() -> None:
    labels, scores = sample(7, n_rows=2000)
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(labels), len(labels)) for _ in range(400)]
    bootstrap = np.std([auc(labels[rows], scores[rows]) for rows in draws])
    assert auc_interval(labels, scores).standard_error == pytest.approx(bootstrap, rel=0.15)


def test_about_95_percent_of_the_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(1)
    truth = 0.5 * math.erfc(-1 / math.sqrt(2) / math.sqrt(2))  # P(N(1, 1) > N(0, 1))
    covered = 0
    for _ in range(400):
        labels = np.repeat([0, 1], [150, 100])
        interval = auc_interval(labels, generator.normal(labels, 1.0))
        covered += interval.low <= truth <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_interval_is_clipped_to_the_unit_range() -> None:
    labels = np.repeat([0, 1], 10)
    scores = np.arange(20.0)
    scores[[9, 10]] = scores[[10, 9]]
    interval = auc_interval(labels, scores)
    assert interval.high == 1.0
    assert interval.low < interval.auc < 1.0


def test_a_single_row_of_a_class_leaves_the_interval_wide() -> None:
    interval = auc_interval([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3])
    assert interval.auc == 1.0
    assert interval.standard_error == 0.5
    assert interval.low < 0.05


def test_comparison_follows_the_equations_of_delong() -> None:
    labels, a = sample(3)
    b = np.round(a + np.random.default_rng(4).normal(0, 0.8, len(a)), 1)
    comparison = compare_auc(labels, a, b)
    variance = (
        plain_covariance(labels, a, a)
        + plain_covariance(labels, b, b)
        - 2 * plain_covariance(labels, a, b)
    )
    difference = plain_auc(labels, a) - plain_auc(labels, b)
    assert comparison.difference == pytest.approx(difference, abs=1e-12)
    assert comparison.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    z = abs(difference) / math.sqrt(variance)
    assert comparison.p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-9)
    assert comparison.low < comparison.difference < comparison.high


def test_a_scorer_does_not_differ_from_itself() -> None:
    labels, scores = sample(5)
    comparison = compare_auc(labels, scores, scores)
    assert (comparison.difference, comparison.standard_error, comparison.p_value) == (0.0, 0.0, 1.0)


def test_a_paired_comparison_has_a_smaller_error_than_a_single_auc() -> None:
    generator = np.random.default_rng(6)
    labels = (generator.random(4000) < 0.5).astype(int)
    a = labels + generator.normal(0, 1.5, 4000)
    b = a + generator.normal(0, 0.3, 4000)
    comparison = compare_auc(labels, a, b)
    assert comparison.standard_error < 0.4 * auc_interval(labels, a).standard_error


def test_log_loss_equals_its_definition() -> None:
    labels, probabilities = [1, 0, 1], [0.8, 0.3, 0.5]
    expected = -(math.log(0.8) + math.log(0.7) + math.log(0.5)) / 3
    assert log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-12)


def test_log_loss_is_finite_for_certain_predictions_and_for_one_class() -> None:
    certain = np.array([0.0, 1.0], np.float32)
    assert log_loss([1, 0], certain) == pytest.approx(-math.log(1e-7))
    assert log_loss([1, 1], [0.5, 0.5]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, math.nan, 0.2], "1 of 3 scores are not finite; the first is nan"),
        ([0, 1], [math.inf, 0.2], "not finite; the first is inf, in row 0"),
        ([1, 1, 1], [0.1, 0.2, 0.3], "all 3 labels are 1"),
        ([0, 0], [0.1, 0.2], "all 2 labels are 0"),
        ([0, 2], [0.1, 0.2], "row 1: label .* neither 0 nor 1"),
        ([0.0, math.nan], [0.1, 0.2], "row 1: label .* neither 0 nor 1"),
        ([0, 1], [0.1, 0.2, 0.3], r"shape \(2,\) and scores of shape \(3,\)"),
        ([], [], "no rows"),
    ],
)
def test_invalid_input_is_refused(labels: list, scores: list, message: str) -> None:
    for metric in (auc, auc_interval):
        with pytest.raises(MetricError, match=message):
            metric(labels, scores)
    with pytest.raises(MetricError, match=message):
        compare_auc(labels, scores, scores)


def test_log_loss_refuses_invalid_probabilities() -> None:
    with pytest.raises(MetricError, match=r"row 1: 1\.2 is not a probability"):
        log_loss([0, 1], [0.3, 1.2])
    with pytest.raises(MetricError, match="not finite"):
        log_loss([0, 1], [0.3, math.nan])


@pytest.mark.parametrize("seed", range(5))
def test_grouped_auc_is_the_mean_over_groups_weighted_by_rows(seed: int) -> None:
    labels, scores = sample(seed, n_rows=400, levels=3)
    groups = np.random.default_rng(seed).zipf(1.5, 400) % 60 * 7 - 100
    found: list[tuple[int, float]] = []
    for group in set(groups.tolist()):
        rows = groups == group
        if len(set(labels[rows].tolist())) == 2:
            found.append((int(rows.sum()), plain_auc(labels[rows], scores[rows])))
    n_groups = len(set(groups.tolist()))
    assert 5 < len(found) < n_groups, f"{len(found)} of {n_groups} groups have both classes"
    assert len({n_rows for n_rows, _ in found}) > 3
    result = grouped_auc(labels, scores, groups)
    n_rows = sum(n for n, _ in found)
    assert result.auc == pytest.approx(sum(n * a for n, a in found) / n_rows, abs=1e-13)
    assert (result.n_groups, result.n_rows) == (len(found), n_rows)


def test_grouped_auc_does_not_compare_rows_of_different_groups() -> None:
    labels = [0, 1, 0, 1]
    scores = [0.8, 0.9, 0.1, 0.2]
    assert auc(labels, scores) == 0.75
    assert grouped_auc(labels, scores, ["a", "a", "b", "b"]).auc == 1.0
    assert grouped_auc(labels, scores, [1, 1, 1, 1]).auc == 0.75


def test_groups_of_a_single_class_have_no_auc() -> None:
    result = grouped_auc([0, 0, 1], [0.1, 0.2, 0.3], [1, 1, 2])
    assert (result.auc, result.n_groups, result.n_rows) == (None, 0, 0)
    with pytest.raises(MetricError, match=r"3 scores but groups of shape \(2,\)"):
        grouped_auc([0, 0, 1], [0.1, 0.2, 0.3], [1, 1])


@pytest.mark.parametrize(("n_rows", "n_bins"), [(150, 15), (157, 15), (1000, 10), (7, 15)])
def test_calibration_equals_its_definition(n_rows: int, n_bins: int) -> None:
    generator = np.random.default_rng(n_rows)
    probabilities = generator.random(n_rows)  # all distinct
    labels = (generator.random(n_rows) < probabilities**2).astype(int)
    ascending = sorted(zip(probabilities.tolist(), labels.tolist(), strict=True))
    # Divide 0..1 into n_bins equal bins. Sorted row r (counted from 0) takes the interval from
    # r / n_rows to (r + 1) / n_rows, and belongs to the bin that its midpoint falls in.
    bins: list[list[tuple[float, int]]] = [[] for _ in range(n_bins)]
    for r, row in enumerate(ascending):
        bins[int((r + 0.5) * n_bins / n_rows)].append(row)
    filled = [rows for rows in bins if rows]
    means = [sum(p for p, _ in rows) / len(rows) for rows in filled]
    shares = [sum(label for _, label in rows) / len(rows) for rows in filled]
    gaps = [
        len(rows) * abs(mean - share)
        for rows, mean, share in zip(filled, means, shares, strict=True)
    ]
    result = calibration(labels, probabilities, n_bins)
    assert result.error == pytest.approx(sum(gaps) / n_rows, abs=1e-12)
    assert [b.mean_probability for b in result.bins] == pytest.approx(means)
    assert [b.share_positive for b in result.bins] == pytest.approx(shares)
    sizes = [b.n_rows for b in result.bins]
    assert sizes == [len(rows) for rows in filled]
    assert max(sizes) - min(sizes) <= 1


def test_calibration_ignores_the_order_of_equal_probabilities() -> None:
    labels = np.repeat([0, 1], 50)
    probabilities = np.full(100, 0.5)
    assert calibration(labels, probabilities).error == 0.0
    assert calibration(labels[::-1], probabilities).error == 0.0
    assert len(calibration(labels, probabilities).bins) == 1
    assert calibration([1, 1], [0.25, 0.25]).error == 0.75


def test_the_calibration_limit_is_the_95th_percentile_of_chance_errors() -> None:
    generator = np.random.default_rng(5)
    probabilities = generator.random(900) ** 2
    errors = [
        calibration(generator.random(900) < probabilities, probabilities).error for _ in range(300)
    ]
    limit = calibration(np.ones(900), probabilities).limit
    assert limit == pytest.approx(np.quantile(errors, 0.95), rel=0.05)
    assert 0.02 < np.mean(np.array(errors) > limit) < 0.08


def test_calibration_refuses_invalid_probabilities() -> None:
    with pytest.raises(MetricError, match=r"row 0: -0\.1 is not a probability"):
        calibration([0, 1], [-0.1, 0.5])


def test_equal_values_share_a_bin() -> None:
    values = np.array([3, 1, 1, 1, 1, 2, 9, 1])
    # The midranks are 7, 3, 3, 3, 3, 6, 8, 3. Midrank m is in bin floor((m - 0.5) * 4 / 8).
    assert equal_mass_bins(values, 4).tolist() == [3, 1, 1, 1, 1, 2, 3, 1]

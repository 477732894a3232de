"""Click rates that leave out the fold of the row equal those of plain counts."""

import math

import numpy as np
import torch

from mmctr_pipeline.data.click_rates import N_FOLDS, fold_columns
from mmctr_pipeline.models.layers.click_rates import ClickRates

N_IDS, SMOOTHING = 7, 10.0


def drawn_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (never 6), labels and folds of 200 rows."""
    generator = np.random.default_rng(2)
    return (
        generator.integers(1, 6, 200),
        generator.integers(0, 2, 200),
        generator.integers(0, N_FOLDS, 200),
    )


def plain_features(clicks: int, n_rows: int, mean: float) -> list[float]:
    rate = (clicks + SMOOTHING * mean) / (n_rows + SMOOTHING)
    return [math.log(rate / (1 - rate)) - math.log(mean / (1 - mean)), math.log(1 + n_rows)]


def test_rates_leave_out_the_fold_of_a_train_row() -> None:
    ids, label, fold = drawn_rows()
    rates = ClickRates(N_IDS, SMOOTHING)
    rates.fit(ids, label, fold)
    trained = rates(torch.from_numpy(ids), torch.from_numpy(fold))
    scored = rates(torch.from_numpy(ids), None)
    for row in range(len(ids)):
        for features, counts in (
            (trained, (ids == ids[row]) & (fold != fold[row])),
            (scored, ids == ids[row]),
        ):
            expected = plain_features(label[counts].sum(), counts.sum(), label.mean())
            torch.testing.assert_close(features[row], torch.tensor(expected), atol=1e-5, rtol=0)


def test_unknown_ids_have_the_features_of_a_mean_rate_and_no_rows() -> None:
    ids, label, fold = drawn_rows()
    rates = ClickRates(N_IDS, SMOOTHING)
    rates.fit(ids, label, fold)
    unknown = torch.tensor([6, N_IDS, 1000])
    assert torch.equal(rates(unknown, None), torch.zeros(3, 2))


def test_the_label_of_a_train_row_does_not_change_its_own_features() -> None:
    ids, label, fold = drawn_rows()
    flipped = label.copy()
    flipped[0] = 1 - label[0]
    rows = torch.from_numpy(ids[:1]), torch.from_numpy(fold[:1])
    features = []
    for labels in (label, flipped):
        rates = ClickRates(N_IDS, SMOOTHING)
        rates.fit(ids, labels, fold)
        rates.mean.fill_(0.5)  # otherwise the mean over all rows would change a little
        features.append(rates(*rows))
    assert torch.equal(*features)


def test_folds_are_even_and_depend_on_the_row_alone() -> None:
    generator = np.random.default_rng(0)
    user_id, item_id = generator.integers(1, 500, (2, 20_000))
    folds = fold_columns(user_id, item_id)
    for fold_N in folds.values():
        assert np.bincount(fold_N, minlength=N_FOLDS).min() > 4_000
    shares = np.bincount(folds["row_fold"][user_id == 7], minlength=N_FOLDS)
    assert shares.min() > 0
    assert len(np.unique(folds["user_fold"][user_id == 7])) == 1
    reversed_folds = fold_columns(user_id[::-1], item_id[::-1])
    assert np.array_equal(reversed_folds["row_fold"][::-1], folds["row_fold"])

"""Pairs drawn from histories have the frequencies of a plain enumeration."""

import itertools
from collections import Counter

import numpy as np
import pytest

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.fusion.attention.pairs import HistoryPairs

ITEM_ID = np.array([10, 20, 30, 40, 50], np.int32)
HISTORIES = Ragged.from_lists([[10, 20, 30, 40], [50], [20, 10, 20], [], [30, 50]])
ALL_ITEMS = np.ones(5, dtype=bool)


def pair_probabilities(
    histories: list[list[int]], window: int, popularity: float
) -> dict[tuple[int, int], float]:
    """Probability of each ordered pair of rows, by definition."""
    neighbours = [
        (history[i], [history[j] for j in range(len(history)) if 0 < abs(i - j) <= window])
        for history in histories
        for i in range(len(history))
    ]
    anchors = [(item, partners) for item, partners in neighbours if partners]
    count = Counter(item for item, _ in anchors)
    weights = [count[item] ** (popularity - 1) for item, _ in anchors]
    pairs: dict[tuple[int, int], float] = Counter()
    for (item, partners), weight in zip(anchors, weights, strict=True):
        for partner in partners:
            pairs[item // 10 - 1, partner // 10 - 1] += weight / len(partners) / sum(weights)
    return dict(pairs)


@pytest.mark.parametrize(("window", "popularity"), [(1, 1.0), (2, 0.0), (9, 0.5)])
def test_pair_frequencies_follow_the_definition(window: int, popularity: float) -> None:
    pairs = HistoryPairs(HISTORIES, ITEM_ID, ALL_ITEMS, window, popularity)
    expected = pair_probabilities([h.tolist() for h in HISTORIES], window, popularity)
    frequency = [sum(p for (_, b), p in expected.items() if b == row) for row in range(5)]
    np.testing.assert_allclose(pairs.partner_frequency(), frequency, atol=1e-12)

    drawn = pairs.draw(40_000, np.random.default_rng(1))
    apart = {pair: p for pair, p in expected.items() if pair[0] != pair[1]}
    assert len(drawn) == pytest.approx(40_000 * sum(apart.values()), rel=0.01)
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(apart)
    for pair, probability in apart.items():
        assert counts[pair] / 40_000 == pytest.approx(probability, abs=0.01)


def test_items_not_in_use_are_removed_before_pairs_are_formed() -> None:
    in_use = np.array([True, False, True, True, True])
    pairs = HistoryPairs(HISTORIES, ITEM_ID, in_use, window=1, popularity=1.0)
    drawn = {tuple(sorted(pair)) for pair in pairs.draw(500, np.random.default_rng(2)).tolist()}
    assert drawn == {(0, 2), (2, 3), (2, 4)}
    assert len(pairs) == 5


def test_anchors_can_be_restricted() -> None:
    pairs = HistoryPairs(HISTORIES, ITEM_ID, ALL_ITEMS, window=1, popularity=1.0)
    is_anchor = np.array([False, False, False, False, True])
    drawn = pairs.draw(50, np.random.default_rng(3), anchors=is_anchor)
    assert len(drawn) == 50
    assert {tuple(pair) for pair in drawn.tolist()} == {(4, 2)}
    assert pairs.draw(50, np.random.default_rng(3), anchors=~ALL_ITEMS).shape == (0, 2)


def test_histories_without_pairs_yield_no_pairs() -> None:
    for histories in (Ragged.from_lists([]), Ragged.from_lists([[10], [], [20]])):
        pairs = HistoryPairs(histories, ITEM_ID, ALL_ITEMS, window=3, popularity=0.0)
        assert len(pairs) == 0
        assert pairs.draw(9, np.random.default_rng(0)).shape == (0, 2)
        assert not pairs.partner_frequency().any()


def test_an_unknown_item_in_a_history_is_refused() -> None:
    for unknown in (5, 25, 99):
        histories = Ragged.from_lists([[10, unknown]])
        with pytest.raises(ValueError, match=f"history has item {unknown}"):
            HistoryPairs(histories, ITEM_ID, ALL_ITEMS, window=3, popularity=0.0)


def test_the_same_seed_draws_the_same_pairs() -> None:
    pairs = HistoryPairs(HISTORIES, ITEM_ID, ALL_ITEMS, window=2, popularity=0.5)
    first, second, other = (pairs.draw(100, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert any(a != b for a, b in itertools.zip_longest(first.tolist(), other.tolist()))

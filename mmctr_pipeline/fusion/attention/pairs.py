"""Pairs of items that stand near each other in one history: what co-interaction contrast learns."""

import numpy as np

from mmctr_pipeline.data.ragged import Ragged


class HistoryPairs:
    """Pairs of the items in use, from histories out of which all other items are struck.

    Items are given and returned as rows of a catalogue, `item_id` being its ids, ascending. The
    entries of a history that have a neighbour within `window` are anchors; an item is the anchor
    in proportion to `count ** popularity`, count being how many such entries it has.
    """

    def __init__(
        self,
        histories: Ragged,
        item_id: np.ndarray,
        in_use: np.ndarray,
        window: int,
        popularity: float,
    ) -> None:
        """Keep the entries of items that are `in_use` (`(N,) bool`).

        Raises `ValueError` for a history item that the catalogue lacks.
        """
        row_T = np.searchsorted(item_id, histories.values)
        row_T = np.minimum(row_T, len(item_id) - 1)
        unknown = item_id[row_T] != histories.values
        if unknown.any():
            raise ValueError(
                f"a train history holds item {histories.values[np.argmax(unknown)]}, which has no "
                "row in text_embeddings: item_feature has changed since the titles were encoded; "
                "materialise text_embeddings and image_embeddings again"
            )
        kept = in_use[row_T]
        history_T = np.repeat(np.arange(len(histories)), histories.lengths)[kept]
        self._row_T = row_T[kept]
        length = np.bincount(history_T, minlength=len(histories))
        stop = np.cumsum(length)
        # Partners of an entry stand within [first, last], the entry itself in between.
        position = np.arange(len(history_T))
        first_T = np.maximum(position - window, (stop - length)[history_T])
        last_T = np.minimum(position + window, stop[history_T] - 1)
        self._entry_A = np.flatnonzero(last_T > first_T)
        self._first_A, self._last_A = first_T[self._entry_A], last_T[self._entry_A]
        anchor_A = self._row_T[self._entry_A]
        count_N = np.bincount(anchor_A, minlength=len(item_id)).astype(np.float64)
        self._weight_A = count_N[anchor_A] ** (popularity - 1)

    def __len__(self) -> int:
        """Entries that can be an anchor, the pairs of one pass over the histories."""
        return len(self._entry_A)

    def partner_frequency(self) -> np.ndarray:
        """Return how often `draw` makes each item the partner, `(N,) float64`, N rows at least.

        The frequencies add up to 1 where there are anchors at all.
        """
        share_A = self._weight_A / (self._last_A - self._first_A)
        steps = np.zeros(len(self._row_T) + 1)
        np.add.at(steps, self._first_A, share_A)
        np.add.at(steps, self._last_A + 1, -share_A)
        frequency_T = np.cumsum(steps)[:-1]
        frequency_T[self._entry_A] -= share_A
        total = self._weight_A.sum()
        return np.bincount(self._row_T, weights=frequency_T) / (total if total else 1.0)

    def draw(
        self, n_pairs: int, generator: np.random.Generator, anchors: np.ndarray | None = None
    ) -> np.ndarray:
        """Return at most `n_pairs` pairs of different items, `(P, 2) int64`, anchor and partner.

        `anchors` (`(N,) bool`) restricts the anchors to some items. Pairs are missing where a
        history repeats an item, and all where there is no anchor.
        """
        weight_A = self._weight_A
        if anchors is not None:
            weight_A = weight_A * anchors[self._row_T[self._entry_A]]
        upper_A = np.cumsum(weight_A)
        if not len(upper_A) or upper_A[-1] == 0:
            return np.zeros((0, 2), dtype=np.int64)
        chosen = np.searchsorted(upper_A, generator.random(n_pairs) * upper_A[-1], side="right")
        # Rounding may reach the upper end of all.
        chosen = np.minimum(chosen, np.flatnonzero(weight_A)[-1])
        entry, first = self._entry_A[chosen], self._first_A[chosen]
        partner = first + generator.integers(self._last_A[chosen] - first)
        partner += partner >= entry
        pairs = np.stack([self._row_T[entry], self._row_T[partner]], axis=1)
        return pairs[pairs[:, 0] != pairs[:, 1]]

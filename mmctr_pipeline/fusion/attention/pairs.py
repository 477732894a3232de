"""Pairs of items near each other in one history, for the co-interaction contrast."""

import numpy as np

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.fusion.errors import FusionError


class HistoryPairs:
    """Random pairs of nearby items in histories.

    Items are rows of a catalogue. Items that are not in use are removed from the histories first.
    An entry of a history is an anchor if it has a neighbour within `window`; an item is drawn as an
    anchor in proportion to `count ** popularity`, where `count` is the number of its anchors.
    """

    def __init__(
        self,
        histories: Ragged,
        item_id: np.ndarray,
        in_use: np.ndarray,
        window: int,
        popularity: float,
    ) -> None:
        """Index the histories; raises `FusionError` for an item that the catalogue lacks.

        Parameters
        ----------
        histories
            The histories. Their values are numbers in `item_id`.
        item_id
            The numbers of the catalogue's items, `(N,)`, ascending integers.
        in_use
            `(N,) bool`, True for the items that may be in pairs.
        window
            Maximum distance of the two items of a pair, in entries.
        popularity
            With 0, all items are drawn equally often as anchors; with 1, in proportion to their
            entries.
        """
        row_T = np.searchsorted(item_id, histories.values)
        row_T = np.minimum(row_T, len(item_id) - 1)
        unknown = item_id[row_T] != histories.values
        if unknown.any():
            raise FusionError(
                f"a train history has item {histories.values[np.argmax(unknown)]}, which has no "
                "row in text_embeddings: item_feature has changed since the titles were encoded; "
                "materialise text_embeddings and image_embeddings again"
            )
        used = in_use[row_T]
        history_T = np.repeat(np.arange(len(histories)), histories.lengths)[used]
        self._row_T = row_T[used]
        length = np.bincount(history_T, minlength=len(histories))
        stop = np.cumsum(length)
        # The partners of an entry are at positions first to last, without the entry itself.
        position = np.arange(len(history_T))
        first_T = np.maximum(position - window, (stop - length)[history_T])
        last_T = np.minimum(position + window, stop[history_T] - 1)
        self._entry_A = np.flatnonzero(last_T > first_T)
        self._first_A, self._last_A = first_T[self._entry_A], last_T[self._entry_A]
        anchor_A = self._row_T[self._entry_A]
        count_N = np.bincount(anchor_A, minlength=len(item_id)).astype(np.float64)
        self._weight_A = count_N[anchor_A] ** (popularity - 1)
        self._n_items = len(item_id)

    def __len__(self) -> int:
        """Number of anchors. One pass over the histories draws as many pairs."""
        return len(self._entry_A)

    def partner_frequency(self) -> np.ndarray:
        """Return how often `draw` makes each item the partner, `(N,) float64`.

        The frequencies add up to 1 if there are any anchors.
        """
        share_A = self._weight_A / (self._last_A - self._first_A)
        steps = np.zeros(len(self._row_T) + 1)
        np.add.at(steps, self._first_A, share_A)
        np.add.at(steps, self._last_A + 1, -share_A)
        frequency_T = np.cumsum(steps)[:-1]
        frequency_T[self._entry_A] -= share_A
        frequency_N = np.bincount(self._row_T, frequency_T, minlength=self._n_items)
        return frequency_N / (self._weight_A.sum() or 1.0)

    def draw(
        self, n_pairs: int, generator: np.random.Generator, anchors: np.ndarray | None = None
    ) -> np.ndarray:
        """Return up to `n_pairs` pairs of different items, `(P, 2) int64`, anchor and partner.

        `anchors` (`(N,) bool`) restricts the anchors to some items. Pairs of an item with itself,
        from a history that repeats it, are dropped. Without any anchor there are no pairs.
        """
        weight_A = self._weight_A
        if anchors is not None:
            weight_A = weight_A * anchors[self._row_T[self._entry_A]]
        upper_A = np.cumsum(weight_A)
        if not len(upper_A) or upper_A[-1] == 0:
            return np.zeros((0, 2), dtype=np.int64)
        chosen = np.searchsorted(upper_A, generator.random(n_pairs) * upper_A[-1], side="right")
        # Rounding may lead past the last anchor.
        chosen = np.minimum(chosen, np.flatnonzero(weight_A)[-1])
        entry, first = self._entry_A[chosen], self._first_A[chosen]
        partner = first + generator.integers(self._last_A[chosen] - first)
        partner += partner >= entry
        pairs = np.stack([self._row_T[entry], self._row_T[partner]], axis=1)
        return pairs[pairs[:, 0] != pairs[:, 1]]

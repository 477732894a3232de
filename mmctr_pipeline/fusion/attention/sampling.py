"""Batches of an epoch of the attention fusion, and the sample for its held-out loss."""

from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.fusion.attention.contrast import ContrastBatch, ContrastObjective
from mmctr_pipeline.fusion.attention.pairs import HistoryPairs
from mmctr_pipeline.fusion.config import AttentionConfig

_HELD_OUT_PAIRS = 8192
"""Maximum number of pairs, each with a held-out item, for the held-out loss."""


class ContrastSampler:
    """Draws training batches, and measures the loss on a fixed sample of held-out items."""

    def __init__(
        self,
        histories: Ragged,
        item_id: np.ndarray,
        learned_N: np.ndarray,
        held_out_N: np.ndarray,
        settings: AttentionConfig,
        device: torch.device,
    ) -> None:
        """Draw the held-out pairs, and prepare to draw the training pairs.

        Parameters
        ----------
        histories
            The histories. Their values are numbers in `item_id`.
        item_id
            Numbers of the N items, ascending; batches hold positions in this array.
        learned_N, held_out_N
            `(N,) bool`: True for the items to learn from, and for the items to measure on.
        settings
            Seed, sizes and how to draw pairs.
        device
            Where batches go.
        """
        self._settings, self._device = settings, device
        self._learned = np.flatnonzero(learned_N)
        self._held_out = np.flatnonzero(held_out_N)
        window, popularity = settings.window, settings.popularity
        self.train_pairs = HistoryPairs(histories, item_id, learned_N, window, popularity)
        self._train_frequency_N = self.train_pairs.partner_frequency()
        all_pairs = HistoryPairs(histories, item_id, learned_N | held_out_N, window, popularity)
        self._frequency_N = all_pairs.partner_frequency()
        generator = np.random.default_rng([settings.seed, 2])
        self.held_out_pairs = all_pairs.draw(_HELD_OUT_PAIRS, generator, held_out_N)
        self.n_pairs = min(len(self.train_pairs), settings.rows_per_epoch)
        n_rows = max(self.n_pairs, min(len(self._learned), settings.rows_per_epoch))
        self._n_steps = -(-n_rows // settings.batch_size)
        self._n_singles = min(settings.batch_size, len(self._learned))

    @property
    def rows_per_epoch(self) -> int:
        """Items that an epoch shows, counting both items of a pair."""
        return 2 * self.n_pairs + self._n_steps * self._n_singles

    def epoch(self, number: int) -> Iterator[ContrastBatch]:
        """Yield the batches of epoch `number`, which depend only on the seed and this number."""
        generator = np.random.default_rng([self._settings.seed, 3, number])
        pairs = self.train_pairs.draw(self.n_pairs, generator)
        for part in np.array_split(pairs, self._n_steps):
            singles = generator.choice(self._learned, self._n_singles, replace=False)
            yield self._batch(part, singles, self._train_frequency_N)

    def held_out_losses(self, objective: ContrastObjective) -> dict[str, float]:
        """Return the loss terms on held-out pairs and items, and `held_out_loss`, their total."""

        def measured(pairs: np.ndarray, singles: np.ndarray) -> dict[str, torch.Tensor]:
            return objective.losses(self._batch(pairs, singles, self._frequency_N))

        no_pairs, no_singles = self.held_out_pairs[:0], self._held_out[:0]
        by_pairs = [measured(part, no_singles) for part in self._parts(self.held_out_pairs)]
        by_singles = [measured(no_pairs, part) for part in self._parts(self._held_out)]
        losses = {"co_interaction": torch.stack([p["co_interaction"] for p in by_pairs]).mean()}
        for name in ("image_title", "reconstruction"):
            losses[name] = torch.stack([part[name] for part in by_singles]).mean()
        losses["held_out_loss"] = objective.total(losses)
        return {name: float(value) for name, value in losses.items()}

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, max(1, -(-len(rows) // self._settings.batch_size)))

    def _batch(
        self, pairs: np.ndarray, singles: np.ndarray, frequency_N: np.ndarray
    ) -> ContrastBatch:
        log_frequency_P = np.log(frequency_N[pairs[:, 1]]).astype(np.float32)
        arrays = (pairs, log_frequency_P, singles)
        return ContrastBatch(*(torch.from_numpy(array).to(self._device) for array in arrays))

"""Click rates of users or items as features; train rows get rates over the other folds.

Leaving out only the row itself would reveal its label: the rate is lower if the row was clicked.
Even a rate over the other folds leaks: an id embedding learns the rate over all rows, and the two
together reveal the mean label of the row's own fold. So an id with a rate gets one embedding per
fold (`FoldTable`).
"""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.click_rates import N_FOLDS, ClickCounts
from mmctr_pipeline.models.layers.embedding import EmbeddingTable


class ClickRates(nn.Module):
    """Two features of an id: the logit of its smoothed click rate, and the log of 1 + its rows.

    The logit of the mean rate is subtracted from the first. Both are 0 for unknown ids. Counts by
    fold are buffers, so a saved model can score without train rows; scoring uses the counts of all
    folds. Before `fit` all counts are 0.
    """

    n_rows_RF: torch.Tensor
    n_clicks_RF: torch.Tensor
    mean: torch.Tensor

    def __init__(self, n_ids: int, smoothing: float) -> None:
        """Build for ids below `n_ids`; each gets `smoothing` extra rows at the mean rate."""
        super().__init__()
        self._smoothing = smoothing
        self.register_buffer("n_rows_RF", torch.zeros(n_ids, N_FOLDS, dtype=torch.int32))
        self.register_buffer("n_clicks_RF", torch.zeros(n_ids, N_FOLDS, dtype=torch.int32))
        self.register_buffer("mean", torch.tensor(0.5))

    def fit(self, ids: np.ndarray, label: np.ndarray | None, fold_N: np.ndarray) -> None:
        """Count rows and clicks of `ids` `(N,)` by fold.

        Raises the errors of `ClickCounts.count`.
        """
        cell_N = ids.astype(np.int64) * N_FOLDS + fold_N
        counts = ClickCounts.count(cell_N, label, self.n_rows_RF.numel())
        self.n_rows_RF.copy_(torch.from_numpy(counts.n_rows_I).view_as(self.n_rows_RF))
        self.n_clicks_RF.copy_(torch.from_numpy(counts.n_clicks_I).view_as(self.n_clicks_RF))
        self.mean.fill_(counts.mean)

    def forward(self, ids_B: torch.Tensor, fold_B: torch.Tensor | None) -> torch.Tensor:
        """Return logit and log, `(B, 2) float32`, without the folds `fold_B` if they are given."""
        n_rows_B = self._count(self.n_rows_RF, ids_B, fold_B)
        n_clicks_B = self._count(self.n_clicks_RF, ids_B, fold_B)
        mean, smoothing = self.mean, self._smoothing
        odds_B = (n_clicks_B + smoothing * mean) / (n_rows_B - n_clicks_B + smoothing * (1 - mean))
        logit_B = odds_B.log() - (mean / (1 - mean)).log()
        return torch.stack([logit_B, torch.log1p(n_rows_B)], dim=1)

    def has_rows(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Return in which folds each id has rows, `(B, F) bool`."""
        return self._at(self.n_rows_RF, ids_B) > 0

    def _count(
        self, counts_RF: torch.Tensor, ids_B: torch.Tensor, fold_B: torch.Tensor | None
    ) -> torch.Tensor:
        counts_BF = self._at(counts_RF, ids_B)
        total_B = counts_BF.sum(1)
        if fold_B is not None:
            total_B = total_B - counts_BF.gather(1, fold_B.unsqueeze(1)).squeeze(1)
        return total_B.float()

    def _at(self, counts_RF: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
        is_within_B = ids_B < len(counts_RF)
        counts_BF = counts_RF[torch.where(is_within_B, ids_B, 0)]
        return torch.where(is_within_B.unsqueeze(1), counts_BF, 0)


class FoldTable(EmbeddingTable):
    """Embeddings of ids below `n_ids` and of unknown ids, one for each fold of the train rows.

    A train row reads and trains the embedding of its own fold. So this embedding learns nothing
    about the other folds, from which the row's rate comes. In scoring, an id has the mean over the
    folds in which it has train rows.
    """

    def __init__(self, n_ids: int, dim: int) -> None:
        super().__init__(N_FOLDS * (n_ids + 1), dim)
        self._n_ids = n_ids

    def read(
        self, id_B: torch.Tensor, has_rows_BF: torch.Tensor, fold_B: torch.Tensor | None
    ) -> torch.Tensor:
        """Return `(B, D)`.

        Parameters
        ----------
        id_B
            Ids, and `n_ids` for unknown ones, `(B,) int64`.
        has_rows_BF
            In which folds each id has train rows, `(B, F) bool`.
        fold_B
            Folds of train rows; None in scoring.
        """
        ids_per_fold = self._n_ids + 1
        if fold_B is not None:
            return self(id_B + ids_per_fold * fold_B)
        is_known_B = (id_B < self._n_ids) & has_rows_BF.any(1)
        id_B = torch.where(is_known_B, id_B, self._n_ids)
        weight_BF = (has_rows_BF | ~is_known_B.unsqueeze(1)).to(self.weight.dtype)
        fold_F = torch.arange(N_FOLDS, device=id_B.device)
        rows_BFD = self(id_B.unsqueeze(1) + ids_per_fold * fold_F)
        return (rows_BFD * weight_BF.unsqueeze(2)).sum(1) / weight_BF.sum(1, keepdim=True)

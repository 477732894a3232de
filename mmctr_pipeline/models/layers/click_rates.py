"""Click rates of users or items as features; train rows get rates over the other folds.

Leaving out only the row itself would reveal its label: the remaining rate is lower if the row was
clicked. Even a rate over the other folds leaks beside an embedding of the same id: the embedding
learns the rate over all rows, and the two rates together reveal the mean label of the row's own
fold. So `FeatureConfig` refuses rates of an id beside its embedding.
"""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.click_rates import (
    ITEM_SMOOTHING,
    N_FOLDS,
    USER_SMOOTHING,
    ClickCounts,
    fold_columns,
)
from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.feature_config import FeatureConfig


class ClickRates(nn.Module):
    """Two features of an id: the logit of its smoothed click rate, and log(1 + number of its rows).

    The logit of the mean rate is subtracted from the first feature. Both are 0 for unknown ids.
    Counts by fold are buffers, so a saved model can score without train rows; scoring uses the
    counts of all folds. Before `fit` all counts are 0.
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
        """Return both features, `(B, 2) float32`.

        With `fold_B`, `(B,) int64`, the counts of each id leave out the train rows of that fold.
        """
        n_rows_B = self._count(self.n_rows_RF, ids_B, fold_B)
        n_clicks_B = self._count(self.n_clicks_RF, ids_B, fold_B)
        mean, smoothing = self.mean, self._smoothing
        odds_B = (n_clicks_B + smoothing * mean) / (n_rows_B - n_clicks_B + smoothing * (1 - mean))
        logit_B = odds_B.log() - (mean / (1 - mean)).log()
        return torch.stack([logit_B, torch.log1p(n_rows_B)], dim=1)

    def _count(
        self, counts_RF: torch.Tensor, ids_B: torch.Tensor, fold_B: torch.Tensor | None
    ) -> torch.Tensor:
        counts_BF = self._at(counts_RF, ids_B)
        total_B = counts_BF.sum(1)
        if fold_B is not None:
            total_B = total_B - counts_BF.gather(1, fold_B.unsqueeze(1)).squeeze(1)
        return total_B.float()

    def _at(self, counts_RF: torch.Tensor, ids_B: torch.Tensor) -> torch.Tensor:
        is_within_B = ids_B < counts_RF.shape[0]
        counts_BF = counts_RF[torch.where(is_within_B, ids_B, 0)]
        return torch.where(is_within_B.unsqueeze(1), counts_BF, 0)


class ClickRateFeatures(nn.Module):
    """The configured click rates: that of the user, that of the target item, both or neither."""

    def __init__(self, config: FeatureConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.user = self.item = None
        if config.user == "rates":
            self.user = ClickRates(spec.n_users, USER_SMOOTHING)
        if config.item_rates == "always":
            self.item = ClickRates(spec.n_items, ITEM_SMOOTHING)
        self.n_rates = sum(rates is not None for rates in (self.user, self.item))

    def fit(self, train: Split) -> None:
        """Count rows and clicks of the train rows."""
        if self.n_rates == 0:
            return
        # A user's rows are divided by a hash of the row, an item's by a hash of the user.
        folds = fold_columns(train.user_id, train.item_id)
        if self.user is not None:
            self.user.fit(train.user_id, train.label, folds["row_fold"])
        if self.item is not None:
            self.item.fit(train.item_id, train.label, folds["user_fold"])

    def forward(
        self, batch: Batch, is_known_B: torch.Tensor, is_hidden_B: torch.Tensor
    ) -> torch.Tensor:
        """Return the two features of each configured rate, `(B, 2, n_rates) float32`.

        Parameters
        ----------
        batch
            Rows.
        is_known_B
            `(B,) bool`, True for known users; the others have zeros.
        is_hidden_B
            `(B,) bool`, True for target items that training treats as cold; these have zeros.
        """
        rates = [torch.zeros(batch.n_rows, 2, 0, device=batch.item_id_B.device)]
        if self.user is not None:
            user_B2 = self.user(batch.user_id_B, batch.row_fold_B)
            rates.append((user_B2 * is_known_B.unsqueeze(1)).unsqueeze(2))
        if self.item is not None:
            item_B2 = self.item(batch.item_id_B, batch.user_fold_B)
            rates.append((item_B2 * ~is_hidden_B.unsqueeze(1)).unsqueeze(2))
        return torch.cat(rates, dim=2)

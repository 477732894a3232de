"""Rows that share one history, such as the candidates of one user, without a copy for each row."""

import dataclasses

import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.segments import Segments


def pairs_of(batch: Batch) -> Pairs:
    """Return the pairs of rows and positions of a batch, whose rows may all share one history.

    Raises `ValueError` if rows share several histories, and `RuntimeError` if autograd would record
    what follows, since `OneHistory` has no gradients.
    """
    offsets, n_positions = batch.history_offsets, batch.history_T.shape[0]
    if batch.history_row_B is None:
        return Segments.from_offsets(offsets, n_positions)
    if offsets.shape[0] != 2:
        raise ValueError("rows share several histories; this model takes batches that share one")
    if torch.is_grad_enabled():
        raise RuntimeError("rows that share a history are for scoring: use torch.no_grad()")
    return OneHistory(offsets, batch.n_rows, n_positions)


@dataclasses.dataclass(frozen=True)
class OneHistory(Pairs):
    """B rows that share a history of P positions, for scoring: there are no gradients.

    A value of each pair has the shape `(B, P, ...)`. What belongs to a row, or to a position alone,
    is not copied: it has the shape `(B, 1, ...)` or `(1, P, ...)`. `offsets` is `[0, L]`; the
    positions from L on are spare.
    """

    offsets: torch.Tensor
    n_rows: int
    n_positions: int

    @property
    def shape(self) -> tuple[int, ...]:
        """`(B, P)`."""
        return self.n_rows, self.n_positions

    @property
    def is_real(self) -> torch.Tensor:
        """`(1, P) bool`, True for positions of the history."""
        return (self._positions() < self.offsets[1]).unsqueeze(0)

    def ages(self) -> torch.Tensor:
        """Return the number of newer positions, `(1, P) int64`; 0 at spare positions."""
        return (self.offsets[1] - 1 - self._positions()).clamp_min(0).unsqueeze(0)

    def expanded(self, rows_BX: torch.Tensor) -> torch.Tensor:
        """Return `(B, 1, ...)`."""
        return rows_BX.unsqueeze(1)

    def of_positions(self, values_PX: torch.Tensor) -> torch.Tensor:
        """Return `(1, P, ...)`."""
        return values_PX.unsqueeze(0)

    def summed(self, values_BPD: torch.Tensor) -> torch.Tensor:
        """Return each row's sum over the history, `(B, D)`; the values may be `(P, D)`."""
        real_BPD = torch.where(self.is_real.unsqueeze(-1), values_BPD, 0)
        return real_BPD.sum(1).expand(self.n_rows, -1)

    def weighted(self, values_PD: torch.Tensor, weight_BP: torch.Tensor) -> torch.Tensor:
        """Return each row's weighted sum of the positions, `(B, D)`."""
        return _exact_product(torch.where(self.is_real, weight_BP, 0), values_PD)

    def dots(self, rows_BD: torch.Tensor, values_PD: torch.Tensor) -> torch.Tensor:
        """Return the dot product of each row and position, `(B, P)`."""
        return _exact_product(rows_BD, values_PD.t())

    def largest(self, values_BPD: torch.Tensor) -> torch.Tensor:
        """Return each row's maximum over the history, `(B, D)`; zero if that is empty.

        The values may be `(P, D)`.
        """
        if self.n_positions == 0:
            return values_BPD.new_zeros(self.n_rows, values_BPD.shape[-1])
        top_BD = torch.where(self.is_real.unsqueeze(-1), values_BPD, -torch.inf).amax(1)
        return torch.where(self.offsets[1] > 0, top_BD, 0).expand(self.n_rows, -1)

    def softmax(self, scores_BP: torch.Tensor, keep_BP: torch.Tensor) -> torch.Tensor:
        """Return softmax weights over the history, `(B, P)`."""
        # The padded score keeps a row that keeps nothing, or has no position, from having no sum.
        lowest = torch.finfo(scores_BP.dtype).min
        scores_BP = torch.where(keep_BP, scores_BP, -torch.inf)
        scores_BP = torch.nn.functional.pad(scores_BP, (0, 1), value=lowest)
        return scores_BP.softmax(1)[:, :-1]

    def _positions(self) -> torch.Tensor:
        return torch.arange(self.n_positions, device=self.offsets.device)


def _exact_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the matrix product in the operands' dtype even under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right

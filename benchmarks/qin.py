"""Train QIN: ours against a padded form written like the authors' code.

    python -m benchmarks.qin [--rows N] [--rounds N] [--batch-size N] [--device D] [--data FOLDER]

Both sides are the preset `qin`, which reads the newest 64 items of a history. They start from the
same weights and have the same features, network, dropout (none within the rows of weights), loss,
Adam with L2 in the gradient, clipping and batch size.

The plain form pads histories to 64, projects keys and values at all 64 positions (FuxiCTR's
`MultiHeadTargetAttention` with ReLU instead of softmax), computes the product with every row of
weights of the quadratic layers and adds up the results, in float32. Ours omits padding, applies
both projections once per row instead of once per position, embeds each distinct item of a batch
once and adds up the rows of weights before the product. It is measured in the precision that `auto`
selects (`ours`) and in float32 (`ours_float32`). `benchmarks/model_speed.py` describes the
measurement. Needs the `bench` extra.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.model_speed import Comparison, n_weights, run
from benchmarks.plain_models import PlainFeatures
from benchmarks.plain_recipe import Row
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import QinConfig
from mmctr_pipeline.models.qin import Qin


class ReluDotProduct(nn.Module):
    """FuxiCTR's `ScaledDotProductAttention` with ReLU instead of softmax."""

    def forward(
        self,
        query_BhlE: torch.Tensor,
        key_BhLE: torch.Tensor,
        value_BhLE: torch.Tensor,
        scale: float,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sums `(B, h, l, E)` and the weights `(B, h, l, L)`."""
        scores_BhlL = query_BhlE @ key_BhLE.transpose(2, 3) / scale
        weight_BhlL = torch.relu(scores_BhlL) * mask
        return weight_BhlL @ value_BhLE, weight_BhlL


class PlainQuadraticBlock(nn.Module):
    """One layer of QIN's network, with one product per row of weights."""

    def __init__(self, dim: int, n_rows: int, dropout: float) -> None:
        super().__init__()
        self.rows = nn.Linear(dim, n_rows * dim)
        self.norm = nn.BatchNorm1d(dim)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)
        self._n_rows = n_rows

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)` for `x_BD` `(B, D)`."""
        rows_BRD = self.rows(x_BD).unflatten(1, (self._n_rows, -1))
        quadratic_BD = x_BD * rows_BRD.sum(1)
        return x_BD + self.dropout(self.activation(self.norm(quadratic_BD)))


class PlainQin(nn.Module):
    """QIN on padded histories."""

    def __init__(self, config: QinConfig, ours: Qin, items: ItemFeatures) -> None:
        """Raise `ValueError` if `row_dropout` is set."""
        super().__init__()
        from fuxictr.pytorch.layers import MultiHeadTargetAttention

        if config.row_dropout:
            raise ValueError("the plain form does not support row_dropout; set it to 0")
        self.features = PlainFeatures(ours.features, items)
        item_dim = ours.features.item_dim
        self.attention = MultiHeadTargetAttention(item_dim, 2 * item_dim)
        self.attention.dot_attention = ReluDotProduct()
        dim = ours.features.context_dim + 2 * item_dim
        self.quadratic = nn.Sequential(
            *(
                PlainQuadraticBlock(dim, config.n_rows, config.dropout)
                for _ in range(config.n_layers)
            )
        )
        self.output = nn.Linear(dim, 1)

    def forward(self, rows: Row) -> torch.Tensor:
        """Return logits `(B,)`."""
        target_BD, history_BLD, is_real_BL, context_BC = self.features(rows)
        interest_BD = self.attention(target_BD, history_BLD, is_real_BL) + target_BD
        input_BF = torch.cat([context_BC, target_BD, interest_BD], dim=1)
        return self.output(self.quadratic(input_BF)).squeeze(1)


def operations_per_row(model: Qin, length_N: np.ndarray) -> float:
    """Return the multiplications and additions for training on an average row.

    The backward pass costs twice the forward pass. A row needs the four projections of the
    attention, one matrix in each quadratic layer, and the output. That matrix is the sum of the
    layer's rows of weights; adding them up, once per batch, is not counted. A position needs its
    product with the query and the weighted sum.
    """
    per_row = n_weights(model.attention, model.output)
    per_row += len(model.quadratic) * model.output.in_features**2
    per_position = 2 * model.features.item_dim
    return 3 * 2 * (per_row + float(length_N.mean()) * per_position)


QIN = Comparison("qin", "qin", PlainQin, operations_per_row, n_rows=24_576)

if __name__ == "__main__":
    run(QIN, __doc__)

"""Layers whose output is quadratic in their input: the network of QIN."""

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.precision import product_dtype


class QuadraticLayer(nn.Module):
    """`sum_r x * (W_r x + b_r)` over rows of weights, as in QIN (arXiv 2504.17699).

    Only dropout comes between a product and the sum. Without it the layer equals `x * (W x + b)`
    with W and b the sums over all rows, and takes only one matrix product of `dim` by `dim`.
    The rows remain the parameters, since their number determines the standard deviation at which W
    starts and how far a step of Adam moves it. `dropout` applies to each `W_r x + b_r` in training.
    Under autocast all products are taken in autocast's number format.
    """

    def __init__(self, dim: int, n_rows: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rows = nn.Linear(dim, n_rows * dim)
        self.dropout = Dropout(dropout)
        self._n_rows = n_rows

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)` for `x_BD` `(B, D)`."""
        x_BD = x_BD.to(product_dtype(x_BD))
        if self.training and self.dropout.p > 0:
            rows_BRD = self.dropout(self.rows(x_BD)).unflatten(1, (self._n_rows, -1))
            return x_BD * rows_BRD.sum(1)
        weight_DD = self.rows.weight.unflatten(0, (self._n_rows, -1)).sum(0)
        bias_D = self.rows.bias.unflatten(0, (self._n_rows, -1)).sum(0)
        return x_BD * functional.linear(x_BD, weight_DD, bias_D)


class QuadraticBlock(nn.Module):
    """`x + dropout(PReLU(BatchNorm(quadratic layer of x)))`, one step of QIN's network.

    The PReLU has one slope for all dimensions.
    """

    def __init__(
        self, dim: int, n_rows: int, dropout: float = 0.0, row_dropout: float = 0.0
    ) -> None:
        """Build the block.

        Parameters
        ----------
        dim
            Width D of input and output.
        n_rows
            Rows of weights of the quadratic layer.
        dropout
            Rate after the activation.
        row_dropout
            Rate of each row within the quadratic layer.
        """
        super().__init__()
        self.quadratic = QuadraticLayer(dim, n_rows, row_dropout)
        self.norm = nn.BatchNorm1d(dim)
        self.activation = nn.PReLU()
        self.dropout = Dropout(dropout)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)` for `x_BD` `(B, D)`."""
        return x_BD + self.dropout(self.activation(self.norm(self.quadratic(x_BD))))

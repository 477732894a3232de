"""Dense layers: products that autocast must not round, activations (Dice among them), towers."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from mmctr_pipeline.models.config import Activation
from mmctr_pipeline.models.layers.dropout import Dropout

_DICE_EPSILON, _DICE_MOMENTUM = 1e-9, 0.01


class Float32Linear(nn.Linear):
    """`nn.Linear` that computes in its own dtype even under autocast.

    In bfloat16 the logits of many rows would be equal, and their order lost. An absolute error of a
    softmax's scores becomes a relative error of its weights: only two digits would be right.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `(..., out)` of the layer's dtype."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def exact_dots(x_ND: torch.Tensor, y_ND: torch.Tensor) -> torch.Tensor:
    """Return the dot product of each pair of rows, `(N,)`, in their dtype even under autocast."""
    with torch.autocast(x_ND.device.type, enabled=False):
        return torch.linalg.vecdot(x_ND, y_ND)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return `values`, as float32 if their format is shorter, as after a product under autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Dice(nn.Module):
    """Data-adaptive activation of DIN: `p x + (1 - p) alpha x`, p the sigmoid of BatchNorm(x).

    Zhou et al. 2018, arXiv 1706.06978, section 5.3; alpha is learned per unit and starts at zero.
    The BatchNorm has no weights of its own; outside training it uses `running_mean_D` and
    `running_variance_D`. Statistics are float32 under autocast.
    """

    running_mean_D: torch.Tensor
    running_variance_D: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha_D = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean_D", torch.zeros(dim))
        self.register_buffer("running_variance_D", torch.ones(dim))

    def forward(self, x_ND: torch.Tensor, keep_N: torch.Tensor | None = None) -> torch.Tensor:
        """Return `(N, D)`; only vectors where `keep_N` `(N,) bool` is True enter the statistics."""
        with torch.autocast(x_ND.device.type, enabled=False):
            x_ND = x_ND.to(self.alpha_D.dtype)
            if self.training:
                centred_ND, variance_D = self._centred(x_ND, keep_N)
            else:
                centred_ND, variance_D = x_ND - self.running_mean_D, self.running_variance_D
            gate_ND = torch.sigmoid(centred_ND * (variance_D + _DICE_EPSILON).rsqrt())
            return x_ND * torch.lerp(self.alpha_D, torch.ones_like(self.alpha_D), gate_ND)

    def _centred(
        self, x_ND: torch.Tensor, keep_N: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `x_ND` minus its mean, and its variance `(D,)`; update the running statistics."""
        keep_N = x_ND.new_ones(x_ND.shape[0]) if keep_N is None else keep_N.to(x_ND.dtype)
        n_kept = self.total(keep_N.sum())
        # Products with `keep_N` add up the kept vectors without copying them.
        mean_D = self.total(keep_N @ x_ND) / n_kept.clamp_min(1)
        centred_ND = x_ND - mean_D
        squares_D = self.total(keep_N @ centred_ND.square())
        with torch.no_grad():
            # A single vector has no variance; without any vector there is no mean either.
            unbiased_D = squares_D / (n_kept - 1).clamp_min(1)
            has_mean, has_variance = ((n_kept > n).to(x_ND.dtype) for n in (0, 1))
            self.running_mean_D.lerp_(mean_D, has_mean * _DICE_MOMENTUM)
            self.running_variance_D.lerp_(unbiased_D, has_variance * _DICE_MOMENTUM)
        return centred_ND, squares_D / n_kept.clamp_min(1)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a statistic over all processes that train this layer: here, one."""
        return tensor


_ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda dim: nn.ReLU(),
    "dice": Dice,
    "prelu": nn.PReLU,
    "sigmoid": lambda dim: nn.Sigmoid(),
}


def activation(name: Activation, dim: int) -> nn.Module:
    """Return the activation called `name` for `dim` units. Raises `ValueError` for other names."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name](dim)


def hidden_layers(
    in_dim: int, dims: Sequence[int], dropout: float, *, norm: bool = False
) -> list[nn.Module]:
    """Return Linear, BatchNorm (with `norm`), ReLU and Dropout for each width.

    Parameters
    ----------
    in_dim, dims
        Width of the input, and of each layer.
    dropout
        Share of dropped units.
    norm
        Whether each layer has BatchNorm.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise((in_dim, *dims)):
        layers.append(nn.Linear(n_in, n_out))
        layers += [nn.BatchNorm1d(n_out)] if norm else []
        layers += [nn.ReLU(), Dropout(dropout)]
    return layers


def tower(in_dim: int, hidden_dims: Sequence[int], dropout: float) -> nn.Sequential:
    """Return hidden layers with BatchNorm and a final Linear to one output."""
    layers = hidden_layers(in_dim, hidden_dims, dropout, norm=True)
    return nn.Sequential(*layers, Float32Linear((in_dim, *hidden_dims)[-1], 1))

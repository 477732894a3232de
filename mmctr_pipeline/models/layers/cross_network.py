"""DCNv2's cross network, which multiplies its input with a linear map of itself, layer by layer.

Where most of the input is known to be zero, such as padded positions, most of the work is skipped.
"""

from typing import Any

import torch
from torch import nn

from mmctr_pipeline.models.layers.staircase import Staircase
from mmctr_pipeline.precision import product_dtype


class CrossNetwork(nn.Module):
    """`x_{l+1} = x_0 * (W_l x_l + b_l) + x_l` for each of `n_layers`, with full matrices `W_l`.

    Wang et al. 2021, arXiv 2008.13535. Where `x_0` is zero every `x_l` is zero. So the rows and
    columns of `W_l` for such places do not matter and are left out. Under autocast the products are
    taken in autocast's number format; the states are not rounded.
    """

    def __init__(self, dim: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_layers))

    def forward(self, x_BD: torch.Tensor, stairs: Staircase) -> torch.Tensor:
        """Return `(B, D)` for an `x` that is zero outside of `stairs`.

        The result is zero there too, and so is the gradient of `x`.
        """
        return _Cross.apply(x_BD, stairs, product_dtype(x_BD), *self.parameters())


class _Cross(torch.autograd.Function):
    """All layers at once, so that gradients of the input add up in place.

    Products neither read nor write values outside of the staircase.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: torch.Tensor,
        stairs: Staircase,
        dtype: torch.dtype,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        blocks = list(stairs.blocks(x_BD.shape[1]))
        state_BD, states, images = x_BD, [], []
        weights = [weight_DD.to(dtype) for weight_DD in parameters[::2]]
        for weight_DD, bias_D in zip(weights, parameters[1::2], strict=True):
            low_BD = state_BD.to(dtype)
            next_BD = torch.zeros_like(x_BD)
            image_BD = torch.empty_like(low_BD)
            for rows, columns in blocks:
                block = rows, columns
                image_bd = torch.addmm(
                    bias_D[columns].to(dtype), low_BD[block], weight_DD[columns, columns].t()
                )
                image_BD[block] = image_bd
                torch.mul(x_BD[block], image_bd, out=next_BD[block]).add_(state_BD[block])
            states.append(low_BD)
            images.append(image_BD)
            state_BD = next_BD
        ctx.blocks, ctx.shells = blocks, list(stairs.shells(x_BD.shape[1]))
        ctx.save_for_backward(x_BD, *states, *images, *weights)
        return state_BD

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_BD, *saved = ctx.saved_tensors
        n_layers = len(saved) // 3
        states, images, weights = (saved[i * n_layers : (i + 1) * n_layers] for i in range(3))
        grad_x_BD = torch.zeros_like(x_BD)
        grad_BD = grad_BD.clone()
        grads: list[torch.Tensor] = []
        layers = list(zip(states, images, weights, strict=True))
        for low_BD, image_BD, weight_DD in reversed(layers):
            grad_image_BD = torch.empty_like(low_BD)
            for rows, columns in ctx.blocks:
                block = rows, columns
                grad_x_BD[block] += grad_BD[block] * image_BD[block]
                torch.mul(grad_BD[block], x_BD[block], out=grad_image_BD[block])
                grad_BD[block] += grad_image_BD[block] @ weight_DD[columns, columns]
            grads += reversed(_parameter_grads(grad_image_BD, low_BD, ctx.shells, x_BD.dtype))
        for block in ctx.blocks:
            grad_x_BD[block] += grad_BD[block]
        return grad_x_BD, None, None, *reversed(grads)


def _parameter_grads(
    grad_image_BD: torch.Tensor,
    low_BD: torch.Tensor,
    shells: list[tuple[slice, slice]],
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of a layer's weight and bias, writing each entry once."""
    dim = low_BD.shape[1]
    grad_weight_DD = low_BD.new_empty(dim, dim, dtype=dtype)
    grad_bias_D = low_BD.new_zeros(dim, dtype=dtype)
    first = shells[0][1].start if shells else dim
    grad_weight_DD[:first] = 0
    grad_weight_DD[:, :first] = 0
    for rows, columns in shells:
        inner, outer = slice(columns.stop, dim), slice(columns.start, dim)
        grad_weight_DD[columns, outer] = grad_image_BD[rows, columns].t() @ low_BD[rows, outer]
        grad_weight_DD[inner, columns] = grad_image_BD[rows, inner].t() @ low_BD[rows, columns]
        grad_bias_D[columns] = grad_image_BD[rows, columns].sum(0, dtype=dtype)
    return grad_weight_DD, grad_bias_D

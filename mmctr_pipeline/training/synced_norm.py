"""Normalisation over the rows of all ranks, so that it does not depend on their number.

torch's own SyncBatchNorm refuses CPU tensors. Here statistics are sums over the ranks, whose
gradients are summed over the ranks too; this works with any backend of torch.distributed.
"""

from typing import Any, cast

import torch
from torch import distributed, nn

from mmctr_pipeline.models.layers.dense import Dice
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.ranks import Ranks


class _RankSum(torch.autograd.Function):
    """Sum of a tensor over the ranks; the gradient is summed in the same way."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        tensor = tensor.clone()
        distributed.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grads[0].clone()
        distributed.all_reduce(grad, group=ctx.group)
        return grad, None


def rank_sum(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return the sum of a tensor over the ranks; differentiable."""
    return cast(torch.Tensor, _RankSum.apply(tensor, ranks.norm_group))


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` for `(B, D)` whose mean and variance are those of all ranks' rows."""

    ranks: Ranks

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return `(B, D)` of the dtype of `input`; the statistics are float32 or longer.

        Raises `SettingsError` for another number of dimensions.
        """
        if not self.training:
            return super().forward(input)
        if input.ndim != 2:
            raise SettingsError(
                f"a nn.BatchNorm1d got a tensor of shape {tuple(input.shape)}, but its statistics "
                "can be taken over several processes only for (rows, columns). Fix: reshape it to "
                "two dimensions, or set training.compute to local"
            )
        with torch.autocast(input.device.type, enabled=False):
            x_BD = input.to(self.weight.dtype)
            n_rows = rank_sum(x_BD.new_tensor([len(x_BD)]), self.ranks)
            mean_D = rank_sum(x_BD.sum(0), self.ranks) / n_rows
            centred_BD = x_BD - mean_D
            variance_D = rank_sum(centred_BD.square().sum(0), self.ranks) / n_rows
            self._record(mean_D.detach(), variance_D.detach(), n_rows)
            scale_D = self.weight * (variance_D + self.eps).rsqrt()
            return (centred_BD * scale_D + self.bias).to(input.dtype)

    @torch.no_grad()
    def _record(self, mean_D: torch.Tensor, variance_D: torch.Tensor, n_rows: torch.Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_D, momentum)
        self.running_var.lerp_(variance_D * (n_rows / (n_rows - 1)), momentum)


class SyncedDice(Dice):
    """`Dice` whose statistics are those of all ranks' rows."""

    ranks: Ranks

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a statistic over the ranks."""
        return rank_sum(tensor, self.ranks)


_SYNCED: dict[type, type] = {nn.BatchNorm1d: SyncedBatchNorm1d, Dice: SyncedDice}


def synchronise(module: nn.Module, ranks: Ranks) -> None:
    """Let the normalisation layers of `module` take their statistics over all ranks.

    The layers change their class and keep their weights. Raises `SettingsError` for a kind of
    BatchNorm that cannot be synchronised.
    """
    if ranks.count == 1:
        return
    for name, layer in module.named_modules():
        if (synced := _SYNCED.get(type(layer))) and _has_weights_and_statistics(layer):
            layer.__class__ = synced
            layer.ranks = ranks
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise SettingsError(
                f"{type(module).__name__}.{name} is a {type(layer).__name__}, whose statistics "
                "cannot be taken over several processes. Fix: use nn.BatchNorm1d with weights and "
                "running statistics, or set training.compute to local"
            )


def _has_weights_and_statistics(layer: nn.Module) -> bool:
    if isinstance(layer, Dice):
        return True
    return layer.weight is not None and layer.running_mean is not None

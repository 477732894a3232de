"""A plain reference of dense AdamW in float64."""

import torch


def adam_step(
    weight: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gradient: torch.Tensor,
    n_steps: int,
    rate: float,
    decay: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return weight and moments after step `n_steps`, with decoupled weight decay."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    mean, square = first / (1 - 0.9**n_steps), second / (1 - 0.999**n_steps)
    weight = weight * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8)
    return weight, first, second


class DenseAdamW:
    """AdamW over every row of a table; if `lazy`, only over the rows that a step looks up."""

    def __init__(self, weight: torch.Tensor, lazy: bool = False) -> None:
        self.weight = weight.detach().double().clone()
        self.first = torch.zeros_like(self.weight)
        self.second = torch.zeros_like(self.weight)
        self.lazy = lazy
        self.n_steps = 0

    def step(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, decay: float = 0.0
    ) -> None:
        """Take a step with `gradients` `(N, D)` of the look-ups `ids` `(N,)`; row 0 is padding."""
        gradient = torch.zeros_like(self.weight).index_add_(0, ids, gradients.double())
        gradient[0] = 0
        self.n_steps += 1
        rows = ids.unique() if self.lazy else slice(None)
        state = (self.weight, self.first, self.second)
        moved = adam_step(
            *(tensor[rows] for tensor in state), gradient[rows], self.n_steps, rate, decay
        )
        for tensor, values in zip(state, moved, strict=True):
            tensor[rows] = values

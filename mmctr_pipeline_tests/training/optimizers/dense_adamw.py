"""AdamW over every row of a table in every step, written plainly in float64."""

import torch


class DenseAdamW:
    """AdamW by its formula; with `lazy` it passes over the rows that a step does not touch."""

    def __init__(self, weight: torch.Tensor, lazy: bool = False) -> None:
        self.weight = weight.detach().double().clone()
        self.first = torch.zeros_like(self.weight)
        self.second = torch.zeros_like(self.weight)
        self.lazy = lazy
        self.n_steps = 0

    def step(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, decay: float = 0.0
    ) -> None:
        """Take a step on `gradients` `(N, D)` of the look-ups `ids` `(N,)`; row 0 is padding."""
        gradient = torch.zeros_like(self.weight).index_add_(0, ids, gradients.double())
        gradient[0] = 0
        self.n_steps += 1
        rows = ids.unique() if self.lazy else slice(None)
        weight, first, second = self.weight[rows], self.first[rows], self.second[rows]
        first = 0.9 * first + 0.1 * gradient[rows]
        second = 0.999 * second + 0.001 * gradient[rows] ** 2
        mean, square = first / (1 - 0.9**self.n_steps), second / (1 - 0.999**self.n_steps)
        weight = weight * (1 - rate * decay) - rate * mean / (square.sqrt() + 1e-8)
        self.weight[rows], self.first[rows], self.second[rows] = weight, first, second

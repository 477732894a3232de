"""What dense AdamW would have done to a row while no batch touched it, in closed form."""

import math

import torch

_NEGLIGIBLE = 1e-10
"""Moves below this share of the first are left out of a sum."""


class CatchUp:
    """Sums, over the steps that a row missed, of the moves that its momentum still makes.

    Without a gradient, step s of AdamW (Loshchilov and Hutter, arXiv 1711.05101) multiplies the
    first moment m by beta1, the second v by beta2, the weight by 1 - lr_s * decay, and moves it by
    c_s * m / sqrt(v), where c_s = lr_s * sqrt(1 - beta2^s) / (1 - beta1^s). So a row that was last
    updated at step l stands, at step n, at

        P(l, n) * (w - G(l, n) * m / (sqrt(v) + epsilon'))

    with P the product of the decays and G(l, n) the sum over s of c_s * r^(s - l) / P(l, s), where
    r = beta1 / sqrt(beta2). This is exact but for epsilon: dense AdamW's weighs more in every step,
    as v shrinks, and here one epsilon stands for those of all steps missed, their harmonic mean by
    the sizes of the moves. G and P are kept for every l since the last flush; a step changes G for
    the latest l alone, since powers of r soon vanish. All numbers are tensors on the device, so
    that nothing waits for it.
    """

    def __init__(
        self, betas: tuple[float, float], epsilon: float, capacity: int, device: torch.device
    ) -> None:
        """Serve up to `capacity` steps between two flushes."""
        self._beta1, self._beta2 = betas
        self._epsilon = epsilon
        ratio = self._beta1 / math.sqrt(self._beta2)
        window = max(1, math.ceil(math.log(_NEGLIGIBLE) / math.log(ratio))) if ratio > 0 else 1
        offset_W = torch.arange(1, window + 1, dtype=torch.int64)
        self._offset_W = offset_W.to(device)
        self._shrunk_W = (self._beta2 ** (offset_W.double() / 2)).to(device)
        self._power_W = (ratio ** offset_W.double()).to(device)
        # Steps before the last flush do not exist: their share goes to a slot that nobody reads.
        self._sum_S = torch.zeros(capacity + 2, dtype=torch.float64, device=device)
        self._sum_per_epsilon_S = torch.zeros_like(self._sum_S)
        self._log_decay_S = torch.zeros(capacity + 2, dtype=torch.float64, device=device)
        self._unread = capacity + 1
        # Not scalars: torch reads the value of a scalar index back to the host.
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        """Steps since the last flush, `(1,) int64`."""
        self.total_steps = torch.zeros(1, dtype=torch.float64, device=device)
        """Steps since the beginning, `(1,) float64`, on which the bias corrections depend."""

    @property
    def corrections(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `1 - beta1^n` and `sqrt(1 - beta2^n)` of the present step n."""
        return (
            1 - self._beta1**self.total_steps,
            (1 - self._beta2**self.total_steps).sqrt(),
        )

    def advance(self, learning_rate: torch.Tensor | float, weight_decay: float) -> None:
        """Begin the next step, which is taken at these rates."""
        log_decay = self._log_decay_S[self.step]
        self.step += 1
        self.total_steps += 1
        rate = torch.as_tensor(learning_rate, dtype=torch.float64, device=self.step.device)
        log_decay = log_decay + torch.log1p(-rate * weight_decay)
        self._log_decay_S.index_copy_(0, self.step, log_decay)
        correction1, correction2 = self.corrections
        since_W = self.step - self._offset_W
        since_W = torch.where(since_W >= 0, since_W, self._unread)
        undecayed_W = torch.exp(self._log_decay_S[since_W] - log_decay)
        move_W = rate * correction2 / correction1 * self._power_W * undecayed_W
        # The unread slot is named several times: whatever order they are added in, nobody reads it.
        self._sum_S.index_add_(0, since_W, move_W)
        self._sum_per_epsilon_S.index_add_(0, since_W, move_W * self._shrunk_W / correction2)

    def present(
        self, weight: torch.Tensor, m: torch.Tensor, v: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """Return the weights at the present step, `(U, D)`, of rows last updated at `last` `(U,)`.

        `m` and `v` are the moments as they were then. Steps count from the last flush.
        """
        decay_U1 = torch.exp(self._log_decay_S[self.step] - self._log_decay_S[last])
        sum_U1 = self._sum_S[last]
        epsilon_U1 = self._epsilon * sum_U1 / self._sum_per_epsilon_S[last].clamp_min(1e-300)
        denominator = v.sqrt().add_(epsilon_U1.clamp_min(1e-30).to(v.dtype).unsqueeze(1))
        move = (m / denominator).mul_(sum_U1.to(m.dtype).unsqueeze(1))
        return (weight - move).mul_(decay_U1.to(weight.dtype).unsqueeze(1))

    def moment_decays(self, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what m and v of rows last updated at `last` `(U,)` shrink by, `(U, 1)` each."""
        missed_U1 = (self.step - last).double().unsqueeze(1)
        return (self._beta1**missed_U1).float(), (self._beta2**missed_U1).float()

    def restart(self) -> None:
        """Forget the steps, as all rows have caught up."""
        self._sum_S.zero_()
        self._sum_per_epsilon_S.zero_()
        self._log_decay_S.zero_()
        self.step.zero_()

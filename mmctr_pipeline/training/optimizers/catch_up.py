"""The updates that dense AdamW would have made to rows that no batch touched, in closed form."""

import math

import torch

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""AdamW's decay rates of the two moments, and its epsilon."""

_RATIO = BETA1 / math.sqrt(BETA2)
_WINDOW = math.ceil(math.log(1e-10) / math.log(_RATIO))
"""Steps after which a move is smaller than 1e-10 of the first one and is left out of a sum."""


class CatchUp:
    """Sums the moves that momentum still makes over the steps that a row missed.

    Without a gradient, step s of AdamW (Loshchilov and Hutter, arXiv 1711.05101) multiplies the
    first moment m by beta1, the second moment v by beta2 and the weight by 1 - lr_s * decay, and
    moves the weight by c_s * m / sqrt(v), where c_s = lr_s * sqrt(1 - beta2^s) / (1 - beta1^s). At
    step n, a row last updated at step l therefore has the weight

        P(l, n) * (w - G(l, n) * m / (sqrt(v) + epsilon'))

    where P is the product of the decays, G(l, n) is the sum over s of c_s * r^(s - l) / P(l, s),
    and r = beta1 / sqrt(beta2). This is exact except for epsilon: in dense AdamW epsilon weighs
    more with every step, because v shrinks. Here a single epsilon replaces those of all missed
    steps: their harmonic mean, weighted by the sizes of the moves. G and P are kept for every l
    since the last flush. A step changes G only for the latest l, because powers of r soon vanish.
    All numbers are tensors on the device, so that nothing waits for the device.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        """Allow up to `capacity` steps between two flushes of tables on `device`."""
        offset_W = torch.arange(1, _WINDOW + 1, dtype=torch.int64)
        self._offset_W = offset_W.to(device)
        self._shrunk_W = (BETA2 ** (offset_W.double() / 2)).to(device)
        self._power_W = (_RATIO ** offset_W.double()).to(device)
        # What would belong to steps before the last flush goes to an extra slot, never read.
        self._sum_S = torch.zeros(capacity + 2, dtype=torch.float64, device=device)
        self._sum_per_epsilon_S = torch.zeros_like(self._sum_S)
        self._log_decay_S = torch.zeros(capacity + 2, dtype=torch.float64, device=device)
        self._unread = capacity + 1
        # One-element tensors: of a scalar index, torch would copy the value back to the host.
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        """Steps since the last flush, `(1,) int64`."""
        self.total_steps = torch.zeros(1, dtype=torch.float64, device=device)
        """Steps since the beginning, `(1,) float64`; the bias corrections depend on it."""

    @property
    def corrections(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `1 - beta1^n` and `sqrt(1 - beta2^n)` for the present step n."""
        return 1 - BETA1**self.total_steps, (1 - BETA2**self.total_steps).sqrt()

    def advance(self, learning_rate: torch.Tensor | float, weight_decay: float) -> None:
        """Begin the next step, at this learning rate and weight decay."""
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
        # The extra slot occurs several times, so its sum may depend on the order of additions. That
        # does not matter, as it is never read.
        self._sum_S.index_add_(0, since_W, move_W)
        self._sum_per_epsilon_S.index_add_(0, since_W, move_W * self._shrunk_W / correction2)

    def present(
        self, weight: torch.Tensor, m: torch.Tensor, v: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """Return the weights of U rows at the present step, `(U, D)`.

        Parameters
        ----------
        weight, m, v
            Weights and moments after the rows' last update, `(U, D)`.
        last
            Step of that update, counted from the last flush, `(U,) int64`.
        """
        decay_U1 = torch.exp(self._log_decay_S[self.step] - self._log_decay_S[last])
        sum_U1 = self._sum_S[last]
        epsilon_U1 = EPSILON * sum_U1 / self._sum_per_epsilon_S[last].clamp_min(1e-300)
        denominator = v.sqrt().add_(epsilon_U1.clamp_min(1e-30).to(v.dtype).unsqueeze(1))
        move = (m / denominator).mul_(sum_U1.to(m.dtype).unsqueeze(1))
        return (weight - move).mul_(decay_U1.to(weight.dtype).unsqueeze(1))

    def moment_decays(self, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors for m and v, `(U, 1)`, of rows last updated at steps `last` `(U,)`."""
        missed_U1 = (self.step - last).double().unsqueeze(1)
        return (BETA1**missed_U1).float(), (BETA2**missed_U1).float()

    def restart(self) -> None:
        """Forget the steps, after all rows have caught up."""
        self._sum_S.zero_()
        self._sum_per_epsilon_S.zero_()
        self._log_decay_S.zero_()
        self.step.zero_()

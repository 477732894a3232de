"""The pairs of a row and a position of its history, in two layouts."""

import abc

import torch


class Pairs(abc.ABC):
    """The pairs of a row and a position of its history: `Segments`, or `OneHistory`.

    A value of each pair has the shape `(T, ...)` in `Segments`, where each position belongs to one
    row. The methods are for code that autograd does not record; the functions of `segments` are
    differentiable.
    """

    offsets: torch.Tensor
    """Where the history of each row begins, and the last one ends, `(B + 1,) int64`."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one number for each pair."""

    @property
    @abc.abstractmethod
    def is_real(self) -> torch.Tensor:
        """`(T,) bool`, True for positions that belong to a row."""

    @abc.abstractmethod
    def ages(self) -> torch.Tensor:
        """Return the number of newer positions in the row, `(T,) int64`; 0 at spare positions."""

    @abc.abstractmethod
    def expanded(self, rows_BX: torch.Tensor) -> torch.Tensor:
        """Return `(T, ...)`: the row's values at each of its positions, zero at spare positions."""

    @abc.abstractmethod
    def of_positions(self, values_TX: torch.Tensor) -> torch.Tensor:
        """Return `(T, ...)`: the values of each pair's position."""

    @abc.abstractmethod
    def summed(self, values_TD: torch.Tensor) -> torch.Tensor:
        """Return each row's sum of values of its pairs, `(B, D)`."""

    @abc.abstractmethod
    def weighted(self, values_TD: torch.Tensor, weight_T: torch.Tensor) -> torch.Tensor:
        """Return each row's sum `(B, D)` of the values of its positions times the pairs' weights.

        The weights have the values' dtype and are finite at spare positions.
        """

    @abc.abstractmethod
    def dots(self, rows_BD: torch.Tensor, values_TD: torch.Tensor) -> torch.Tensor:
        """Return the dot product of each row with each of its positions, `(T,)`.

        It is computed in the values' dtype even under autocast. Autograd records it.
        """

    @abc.abstractmethod
    def largest(self, values_TD: torch.Tensor) -> torch.Tensor:
        """Return each row's maximum `(B, D)`; zero for a row without positions."""

    @abc.abstractmethod
    def softmax(self, scores_T: torch.Tensor, keep_T: torch.Tensor) -> torch.Tensor:
        """Return softmax weights within each row as `segment_softmax` does, `(T,)`."""

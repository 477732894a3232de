"""Ranks: the processes that train one model together, each with all weights and a share of rows."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

T = TypeVar("T")

RowGradients = tuple[torch.Tensor, torch.Tensor]
"""Distinct rows of a table, `(U,) int64`, and their gradients, `(U, D)`."""


@dataclasses.dataclass
class Traffic:
    """Bytes that a rank sends: dense gradients per step, and table rows over `n_steps` steps.

    Dense gradients are reduced over the ranks, while every rank gets the rows of every other rank.
    """

    dense_bytes: int = 0
    row_bytes: int = 0
    n_steps: int = 0

    def __str__(self) -> str:
        row_bytes = self.row_bytes / max(self.n_steps, 1)
        return f"{self.dense_bytes:,} bytes of dense weights, {row_bytes:,.0f} of table rows"


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process and the others that train the same model; by default there are no others.

    Each batch is divided between the ranks. Weights stay identical, bit by bit, since every rank
    makes the same update from the same merged gradients. With a single rank, all methods return
    what they are given.

    Parameters
    ----------
    number
        Number of this rank, from 0.
    count
        Number of ranks.
    norm_group
        Process group for the statistics of normalisation layers. They need one of their own, as
        the order of their messages relative to those of gradients may differ between ranks.
    traffic
        Counts what this rank sends.
    """

    number: int = 0
    count: int = 1
    norm_group: Any = None
    traffic: Traffic = dataclasses.field(default_factory=Traffic)

    @classmethod
    def of_process_group(cls) -> "Ranks":
        """Return the ranks of torch's default process group; call it once in each process."""
        return cls(distributed.get_rank(), distributed.get_world_size(), distributed.new_group())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Numbers that make this rank's random draws differ; none for the first rank."""
        return (self.number,) if self.number else ()

    @property
    def is_first(self) -> bool:
        """True for the rank that writes files."""
        return self.number == 0

    def divided(self, order_N: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, int]:
        """Return this rank's share of each batch of `order_N` rows, joined, and its size.

        All ranks get equally many rows of each batch, and no row goes to two ranks. The last batch
        loses up to `count - 1` rows for that.

        Parameters
        ----------
        order_N
            Rows in the order in which all ranks together train on them, `(N,) int64`.
        batch_size
            Rows of a batch over all ranks, a multiple of `count`.
        """
        n_rows = len(order_N) - len(order_N) % batch_size % self.count
        return order_N[:n_rows][self.number :: self.count], batch_size // self.count

    def block(self, n_rows: int) -> np.ndarray:
        """Return the rows that this rank scores, ascending; those of all ranks are `n_rows`."""
        return np.array_split(np.arange(n_rows), self.count)[self.number]

    def joined(self, scores: np.ndarray, n_rows: int) -> np.ndarray:
        """Return the scores of all ranks' blocks in order, `(n_rows,) float32`, on every rank."""
        if self.count == 1:
            return scores
        blocks: list[Any] = [None] * self.count
        distributed.all_gather_object(blocks, scores)
        return np.concatenate(blocks)

    def replicated(self, module: nn.Module, by_row: set[nn.Parameter]) -> nn.Module:
        """Return `module` so that a backward pass averages its gradients over all ranks.

        `by_row` are weights whose gradients `merged_rows` exchanges instead.
        """
        if self.count == 1:
            return module
        ignored = [name for name, weight in module.named_parameters() if weight in by_row]
        dense = [weight for weight in module.parameters() if weight not in by_row]
        self.traffic.dense_bytes = sum(w.numel() * w.element_size() for w in dense)
        parallel = nn.parallel.DistributedDataParallel
        parallel._set_params_and_buffers_to_ignore_for_model(module, ignored)
        # Normalisation layers keep equal statistics by themselves. A weight may be unused: that of
        # a feature that the data lack, for example.
        return parallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks, without gradient."""
        if self.count == 1:
            return value
        value = value.detach().clone()
        distributed.all_reduce(value)
        return value / self.count

    def agreed(self, value: T) -> T:
        """Return the first rank's `value` on every rank."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def digest(self, module: nn.Module) -> str:
        """Return the SHA-256 of the weights; raises `RuntimeError` if a rank has other weights."""
        hashed = hashlib.sha256()
        for tensor in module.state_dict().values():
            hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests: list[Any] = [hashed.hexdigest()] * self.count
        if self.count > 1:
            distributed.all_gather_object(digests, hashed.hexdigest())
        if len(set(digests)) > 1:
            raise RuntimeError(f"the weights of {self.count} ranks differ: {', '.join(digests)}")
        return digests[0]

    def all_rows(self, tables: Sequence[RowGradients]) -> list[list[RowGradients]]:
        """Return, for each table, the rows and gradients of every rank, in the order of ranks.

        Every rank passes the same tables, with any number of rows. There are three messages for all
        tables together: numbers of rows, rows, and gradients.
        """
        if self.count == 1:
            return [[table] for table in tables]
        widths = [grads.shape[1] for _, grads in tables]
        n_rows = torch.tensor([len(rows) for rows, _ in tables], device=tables[0][0].device)
        n_rows_RT = torch.stack(self._gathered(n_rows)).tolist()
        n_values_R = [
            sum(n * width for n, width in zip(sizes, widths, strict=True)) for sizes in n_rows_RT
        ]
        rows_R = self._gathered(
            _padded([rows for rows, _ in tables], max(sum(sizes) for sizes in n_rows_RT))
        )
        grads_R = self._gathered(_padded([grads.flatten() for _, grads in tables], max(n_values_R)))
        self.traffic.row_bytes += rows_R[0].nbytes + grads_R[0].nbytes
        self.traffic.n_steps += 1
        found: list[list[RowGradients]] = [[] for _ in tables]
        for sizes, rows, values in zip(n_rows_RT, rows_R, grads_R, strict=True):
            begin = begin_values = 0
            for table, n, width in zip(found, sizes, widths, strict=True):
                end, end_values = begin + n, begin_values + n * width
                grads = values[begin_values:end_values].view(n, width)
                table.append((rows[begin:end], grads))
                begin, begin_values = end, end_values
        return found

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return a tensor of one shape on all ranks from each of them, in order."""
        tensors = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(tensors, tensor)
        return tensors


ALONE = Ranks()
"""One process that trains by itself."""


def _padded(parts: Sequence[torch.Tensor], size: int) -> torch.Tensor:
    joined = torch.cat(list(parts))
    return nn.functional.pad(joined, (0, size - len(joined)))

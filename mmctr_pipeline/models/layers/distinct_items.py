"""The distinct items of a batch, and where they stand."""

import dataclasses

import torch
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class DistinctItems:
    """The U distinct items of a batch: what is computed of an item is computed once.

    `item_U` are their ids and `row_U` their rows in tables of ids, where an item that is known may
    stand twice, once as unknown. `slot_N` says which of them stands at each of N = B + T places:
    the targets of the rows, then the positions of the histories. All are int64.
    """

    item_U: torch.Tensor
    row_U: torch.Tensor
    slot_N: torch.Tensor
    n_rows: int

    def placed(self, values_UD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values of the targets `(B, D)` and of the histories `(T, D)`."""
        if values_UD.device.type == "cpu":
            values_ND = functional.embedding(self.slot_N, values_UD)
        else:
            values_ND = values_UD.index_select(0, self.slot_N)
        target_BD, history_TD = values_ND.split([self.n_rows, len(values_ND) - self.n_rows])
        return target_BD, history_TD

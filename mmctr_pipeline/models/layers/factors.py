"""Biases and factors of users and items: a matrix factorisation as a part of the logit."""

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.models.layers.embedding import EmbeddingTable

HIDDEN_SHARE = 0.1
"""Share of train rows whose item is read without its id, so that its tags must suffice."""

_BIAS_SCALE, _FACTOR_SCALE = 16.0, 6.0
"""Table rows are multiplied by these scales.

With the scales, biases and factors grow fast enough under the small steps of Adam, and one weight
decay suits both them and the other embeddings.
"""


class Factors(nn.Module):
    """The logit of a user and an item as two biases and the product of their factors.

    It is `b_u + b_i + p_u . q_i`, as in Koren et al. 2009 (doi:10.1109/MC.2009.263). Bias and
    factors of an item are those of its id plus the mean of those of its tags. Id 0, which stands
    for unknown users and items, has zeros. So a cold item has the bias and factors of its tags, and
    after `zero_untrained` so has an item that train holds in histories alone.
    """

    scale_D: torch.Tensor

    def __init__(self, n_users: int, n_items: int, n_tags: int, dim: int) -> None:
        """Build tables of so many rows, row 0 included, for `dim` factors."""
        super().__init__()
        self.user = EmbeddingTable(n_users, 1 + dim, rows_of="users")
        self.item = EmbeddingTable(n_items, 1 + dim, rows_of="items")
        self.tags = EmbeddingTable(n_tags, 1 + dim, rows_of="tags")
        scale_D = torch.full((1 + dim,), _FACTOR_SCALE)
        scale_D[0] = _BIAS_SCALE
        self.register_buffer("scale_D", scale_D, persistent=False)

    @torch.no_grad()
    def zero_untrained(self, item_N: np.ndarray) -> None:
        """Set the rows of items that are not among `item_N`, the train targets, to zero."""
        is_untrained_R = np.ones(self.item.num_embeddings, bool)
        is_untrained_R[item_N] = False
        self.item.weight[torch.from_numpy(is_untrained_R).to(self.item.weight.device)] = 0

    def forward(
        self, user_B: torch.Tensor, item_B: torch.Tensor, tags_BK: torch.Tensor
    ) -> torch.Tensor:
        """Return logits `(B,) float32`.

        Parameters
        ----------
        user_B, item_B
            Table rows, 0 for unknown ones, `(B,) int64`.
        tags_BK
            Tags of the items, padded with 0, `(B, K) int64`.
        """
        user_BD = self.user(user_B) * self.scale_D
        item_BD = (self.item(item_B) + self.tags.mean(tags_BK)) * self.scale_D
        return user_BD[:, 0] + item_BD[:, 0] + (user_BD[:, 1:] * item_BD[:, 1:]).sum(1)

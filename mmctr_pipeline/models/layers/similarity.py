"""Similarities of a target to the items of its history, and their summaries over the history."""

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.batch import DistinctItems
from mmctr_pipeline.models.layers.dense import at_least_float32
from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.segments import (
    segment_max,
    segment_mean,
    segment_sum,
)

RECENCY = 0.8
"""Weight of a history item relative to the next newer one in a recency-weighted mean."""

N_SUMMARIES = 4


def cosines(vectors_UD: torch.Tensor, items: DistinctItems, segments: Pairs) -> torch.Tensor:
    """Return the cosine of the target's vector and each history item's, `(T,) float32`.

    `vectors_UD` are those of the distinct items; a zero vector has cosine 0 with all others.
    """
    return dots(functional.normalize(at_least_float32(vectors_UD), dim=1), items, segments)


def dots(vectors_UD: torch.Tensor, items: DistinctItems, segments: Pairs) -> torch.Tensor:
    """Return the dot product of the target's vector and each history item's, `(T,)`."""
    target_BD, history_TD = items.at_places(vectors_UD)
    return segments.dots(target_BD, history_TD)


def summaries(values_TS: torch.Tensor, segments: Pairs) -> torch.Tensor:
    """Return `(B, 4 S)`: the mean, maximum, last and recency-weighted mean of each history.

    A row without positions has zeros. Values at spare positions are ignored.
    """
    age_T = segments.ages()
    recency_T = torch.where(segments.is_real, RECENCY ** age_T.to(values_TS.dtype), 0.0)
    is_last_T = (segments.is_real & (age_T == 0)).to(values_TS.dtype)
    total_B1 = segment_sum(recency_T.unsqueeze(-1), segments).clamp_min(1e-6)
    last_BS = segment_sum(values_TS * is_last_T.unsqueeze(-1), segments)
    recent_BS = segment_sum(values_TS * recency_T.unsqueeze(-1), segments) / total_B1
    return torch.cat(
        [segment_mean(values_TS, segments), segment_max(values_TS, segments), last_BS, recent_BS],
        dim=1,
    )


class LearnedVectors(nn.Module):
    """Item vectors for a learned similarity: two layers over the content, plus a row of the id.

    A dot product of such vectors is item-based factorisation for ids (FISM, Kabbur et al. 2013)
    and a two-tower model for content. Rows are multiplied by `ID_SCALE`, so that they grow as fast
    as the layers' output under the small steps of Adam.
    """

    ID_SCALE = 8.0

    def __init__(self, content_dim: int, hidden_dim: int, dim: int, n_rows: int | None) -> None:
        """Build the layers.

        Parameters
        ----------
        content_dim
            Width of the content vectors.
        hidden_dim
            Hidden units of the two layers.
        dim
            Width of the learned vectors.
        n_rows
            Rows of the table of ids; None leaves ids out.
        """
        super().__init__()
        self.content = nn.Sequential(
            nn.Linear(content_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )
        self.id = None if n_rows is None else EmbeddingTable(n_rows, dim, "items")

    def forward(self, content_UC: torch.Tensor, row_U: torch.Tensor) -> torch.Tensor:
        """Return `(U, dim) float32` for contents `(U, content_dim)` and table rows `(U,)`."""
        vectors_UD = at_least_float32(self.content(content_UC))
        return vectors_UD if self.id is None else vectors_UD + self.ID_SCALE * self.id(row_U)

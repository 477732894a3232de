"""How similar a target is to each item of its history, and what a whole history comes to."""

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.models.layers.distinct_items import DistinctItems
from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.models.layers.exact import at_least_float32, exact_dots
from mmctr_pipeline.models.layers.segments import (
    Segments,
    segment_max,
    segment_mean,
    segment_sum,
    spread,
)

RECENCY = 0.8
"""What an item of a history counts less than the next newer one in a recency-weighted mean."""

N_SUMMARIES = 4


def cosines(vectors_UD: torch.Tensor, items: DistinctItems, segments: Segments) -> torch.Tensor:
    """Return the cosine of the target's vector and each history item's, `(T,) float32`.

    `vectors_UD` are those of the distinct items; a zero vector has cosine 0 with all others.
    """
    unit_UD = functional.normalize(at_least_float32(vectors_UD), dim=1)
    target_BD, history_TD = items.placed(unit_UD)
    return exact_dots(spread(target_BD, segments), history_TD)


def ages(segments: Segments, n_positions: int) -> torch.Tensor:
    """Return how many items of its history are newer than each, `(T,) int64`; 0 at spare ones."""
    position_T = torch.arange(n_positions, device=segments.offsets.device)
    end_T = torch.cat([segments.offsets[1:], segments.offsets[-1:]])[segments.row_T]
    return (end_T - 1 - position_T).clamp_min(0)


def summaries(values_TS: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return `(B, 4 S)`: the mean, maximum, last and recency-weighted mean of each history.

    A row without positions has zeros. Values at spare positions are ignored.
    """
    kept_T = segments.kept()
    age_T = ages(segments, len(values_TS))
    recency_T = torch.where(kept_T, RECENCY ** age_T.to(values_TS.dtype), 0.0)
    is_last_T = (kept_T & (age_T == 0)).to(values_TS.dtype)
    weight_T2 = torch.stack([is_last_T, recency_T], dim=1)
    total_B2 = segment_sum(weight_T2, segments).clamp_min(1e-6)
    last_BS = segment_sum(values_TS * is_last_T.unsqueeze(1), segments)
    recent_BS = segment_sum(values_TS * recency_T.unsqueeze(1), segments) / total_B2[:, 1:]
    return torch.cat(
        [segment_mean(values_TS, segments), segment_max(values_TS, segments), last_BS, recent_BS],
        dim=1,
    )


class LearnedVectors(nn.Module):
    """Item vectors for a learned similarity: two layers over the content, plus a row of the id.

    Of ids a dot product of such vectors is what item-based factorisation has (FISM, Kabbur et al.
    2013), of content a model of two towers. Rows are multiplied by `ID_SCALE`, so that they grow
    as fast as the layers' output under the small steps of Adam.
    """

    ID_SCALE = 8.0

    def __init__(self, content_dim: int, hidden_dim: int, dim: int, n_rows: int | None) -> None:
        """`n_rows` is the number of rows of the table of ids; None leaves ids out."""
        super().__init__()
        self.content = nn.Sequential(
            nn.Linear(content_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim)
        )
        self.id = None if n_rows is None else EmbeddingTable(n_rows, dim)

    def forward(self, content_UC: torch.Tensor, row_U: torch.Tensor) -> torch.Tensor:
        """Return `(U, dim) float32` for contents `(U, content_dim)` and table rows `(U,)`."""
        vectors_UD = at_least_float32(self.content(content_UC))
        return vectors_UD if self.id is None else vectors_UD + self.ID_SCALE * self.id(row_U)

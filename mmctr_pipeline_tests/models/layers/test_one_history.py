"""Rows that share one history get what rows with a copy of it each get."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.config import (
    DinAttentionSettings,
    FeatureConfig,
    TargetCrossAttentionConfig,
)
from mmctr_pipeline.models.layers.attention import (
    AttentionPooling,
    ReluTargetAttention,
    TargetAttention,
)
from mmctr_pipeline.models.layers.one_history import OneHistory
from mmctr_pipeline.models.layers.pairs import Pairs
from mmctr_pipeline.models.layers.segments import (
    Segments,
    expand_to_positions,
    row_dots,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    weighted_sum,
)
from mmctr_pipeline.models.layers.similarity import summaries
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder

N_ROWS, DIM = 3, 4
Layouts = tuple[OneHistory, Segments]

lengths = pytest.mark.parametrize(("length", "spare"), [(5, 0), (5, 2), (1, 0), (0, 0), (0, 3)])


def both(length: int, spare: int) -> Layouts:
    """Return one history with spare positions, and as many histories as rows without any."""
    shared = OneHistory(torch.tensor([0, length]), N_ROWS, length + spare)
    return shared, Segments.from_offsets(torch.arange(N_ROWS + 1) * length, N_ROWS * length)


def positions(length: int, spare: int) -> torch.Tensor:
    """Return random `(P, D) float64`, with garbage at the spare positions."""
    torch.manual_seed(0)
    values_PD = torch.randn(length + spare, DIM, dtype=torch.float64)
    values_PD[length:] = 1e3
    return values_PD


def copies(values_PD: torch.Tensor, length: int) -> torch.Tensor:
    return values_PD[:length].repeat(N_ROWS, 1)


def pair_values(length: int, spare: int) -> torch.Tensor:
    """Return random `(B, P, D) float64`, with garbage at the spare positions."""
    torch.manual_seed(1)
    values_BPD = torch.randn(N_ROWS, length + spare, DIM, dtype=torch.float64)
    values_BPD[:, length:] = 1e3
    return values_BPD


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@lengths
@pytest.mark.parametrize("reduce", [segment_sum, segment_mean, segment_max, summaries])
def test_reductions(
    reduce: Callable[[torch.Tensor, Pairs], torch.Tensor], length: int, spare: int
) -> None:
    shared, ragged = both(length, spare)
    values_BPD = pair_values(length, spare)
    with torch.no_grad():
        ours = reduce(values_BPD, shared)
        assert_close(ours, reduce(values_BPD[:, :length].flatten(0, 1), ragged))
    assert bool(ours.any()) == (length > 0)


@lengths
@pytest.mark.parametrize("reduce", [segment_sum, segment_mean, segment_max])
def test_reductions_of_the_positions_alone(
    reduce: Callable[[torch.Tensor, Pairs], torch.Tensor], length: int, spare: int
) -> None:
    shared, ragged = both(length, spare)
    values_PD = positions(length, spare)
    with torch.no_grad():
        ours_BD = reduce(values_PD, shared)
        assert_close(ours_BD, reduce(copies(values_PD, length), ragged))


@lengths
def test_softmax_and_weighted_sum(length: int, spare: int) -> None:
    shared, ragged = both(length, spare)
    scores_BP = pair_values(length, spare)[..., 0]
    keep_BP = torch.rand(scores_BP.shape) > 0.4
    keep_BP[0] = False
    values_PD = positions(length, spare)
    with torch.no_grad():
        ours_BP = segment_softmax(scores_BP, keep_BP, shared)
        theirs_T = segment_softmax(
            scores_BP[:, :length].flatten(), keep_BP[:, :length].flatten(), ragged
        )
        assert_close(ours_BP[:, :length].flatten(), theirs_T)
        theirs_BD = weighted_sum(copies(values_PD, length), theirs_T, ragged)
        assert_close(weighted_sum(values_PD, ours_BP, shared), theirs_BD)


@lengths
def test_what_a_pair_gets_from_its_row_and_its_position(length: int, spare: int) -> None:
    shared, ragged = both(length, spare)
    rows_BD, values_PD = torch.randn(N_ROWS, DIM, dtype=torch.float64), positions(length, spare)

    def ravelled(pairs_BP: torch.Tensor) -> torch.Tensor:
        shape = *shared.shape, *pairs_BP.shape[2:]
        return pairs_BP.expand(shape)[:, :length].flatten(0, 1)

    with torch.no_grad():
        theirs_TD = copies(values_PD, length)
        dots_T = row_dots(rows_BD, theirs_TD, ragged)
        assert_close(ravelled(row_dots(rows_BD, values_PD, shared)), dots_T)
        assert_close(ravelled(shared.of_positions(values_PD)), theirs_TD)
        expanded_TD = expand_to_positions(rows_BD, ragged)
        assert_close(ravelled(expand_to_positions(rows_BD, shared)), expanded_TD)
    assert torch.equal(ravelled(shared.ages()), ragged.ages())
    assert shared.is_real.tolist() == [[True] * length + [False] * spare]


def attention(softmax: bool) -> TargetAttention:
    config = DinAttentionSettings(attention_hidden_dims=(6, 5), attention_softmax=softmax)
    return TargetAttention(DIM, config, n_inputs=DIM)


def target_query(max_history: int) -> TargetQueryEncoder:
    features = FeatureConfig(max_history=max_history)
    config = TargetCrossAttentionConfig(
        features=features, n_layers=2, n_heads=2, feed_forward_dim=5
    )
    return TargetQueryEncoder(DIM, config)


@lengths
@pytest.mark.parametrize(
    "layer",
    [
        attention(softmax=False),
        attention(softmax=True),
        ReluTargetAttention(DIM),
        target_query(8),
        target_query(3),
    ],
    ids=["target", "target, softmax", "relu", "query", "query, newest"],
)
def test_attention(layer: nn.Module, length: int, spare: int) -> None:
    torch.manual_seed(2)
    layer = layer.double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    shared, ragged = both(length, spare)
    query_BD, values_PD = torch.randn(N_ROWS, DIM, dtype=torch.float64), positions(length, spare)
    inputs_BPN = pair_values(length, spare)
    further: list[tuple[torch.Tensor, ...]] = [(), ()]
    if isinstance(layer, TargetAttention):
        further = [(inputs_BPN,), (inputs_BPN[:, :length].flatten(0, 1),)]
    with torch.no_grad():
        ours_BD = layer(query_BD, values_PD, shared, *further[0])
        theirs_BD = layer(query_BD, copies(values_PD, length), ragged, *further[1])
    assert_close(ours_BD, theirs_BD)


def test_pooling_of_the_history_alone_is_the_same_for_all_rows() -> None:
    torch.manual_seed(3)
    pooling, values_PD = AttentionPooling(DIM, 4).double(), positions(5, 0)
    ragged = Segments.from_offsets(torch.tensor([0, 5]), 5)
    shared, _ = both(5, 0)
    with torch.no_grad():
        pooled_1D = pooling(values_PD, ragged, torch.ones(5, dtype=torch.bool))
        weight_1P = pooling.score(torch.tanh(pooling.hidden(values_PD))).squeeze(-1).unsqueeze(0)
        weight_BP = segment_softmax(weight_1P.expand(N_ROWS, -1), shared.is_real, shared)
        assert_close(weighted_sum(values_PD, weight_BP, shared), pooled_1D.expand(N_ROWS, -1))

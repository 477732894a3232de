"""Similarities over a ragged batch equal plain loops."""

import pytest
import torch

from mmctr_pipeline.models.batch import DistinctItems
from mmctr_pipeline.models.layers.segments import Segments
from mmctr_pipeline.models.layers.similarity import (
    RECENCY,
    LearnedVectors,
    cosines,
    summaries,
)
from mmctr_pipeline_tests.models.layers.ragged_case import LENGTHS, N_REAL, SPARE, row_offsets

OFFSETS = row_offsets(LENGTHS)


@pytest.mark.parametrize("spare", [0, SPARE])
def test_cosines_compare_the_target_of_each_row_with_its_history(spare: int) -> None:
    torch.manual_seed(0)
    n_positions = N_REAL + spare
    vectors_UD = torch.randn(9, 5)
    vectors_UD[0] = 0
    slot_N = torch.randint(0, 9, (len(LENGTHS) + n_positions,))
    items = DistinctItems(torch.arange(9), torch.arange(9), slot_N, len(LENGTHS))
    actual_T = cosines(vectors_UD, items, Segments.from_offsets(OFFSETS, n_positions))
    position = 0
    for row, length in enumerate(LENGTHS):
        target = vectors_UD[slot_N[row]]
        for _ in range(length):
            item = vectors_UD[slot_N[len(LENGTHS) + position]]
            expected = torch.nn.functional.cosine_similarity(target, item, dim=0)
            assert actual_T[position].item() == pytest.approx(expected.item(), abs=1e-6)
            position += 1
    assert not actual_T[N_REAL:].any()


def test_cosines_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    slot_N = torch.randint(0, 9, (len(LENGTHS) + N_REAL,))
    items = DistinctItems(torch.arange(9), torch.arange(9), slot_N, len(LENGTHS))
    vectors_UD, segments = torch.randn(9, 5), Segments.from_offsets(OFFSETS, N_REAL)
    with torch.autocast("cpu", torch.bfloat16):
        actual_T = cosines(vectors_UD, items, segments)
    assert torch.equal(actual_T, cosines(vectors_UD, items, segments))


@pytest.mark.parametrize("spare", [0, SPARE])
def test_summaries_are_mean_maximum_last_and_recency_weighted_mean(spare: int) -> None:
    torch.manual_seed(1)
    values_TS = torch.randn(N_REAL + spare, 3, dtype=torch.float64)
    found_BS = summaries(values_TS, Segments.from_offsets(OFFSETS, len(values_TS)))
    for row, values_LS in enumerate(values_TS[:N_REAL].split(LENGTHS)):
        expected = torch.zeros(12, dtype=torch.float64)
        if len(values_LS):
            weights = [RECENCY**age for age in reversed(range(len(values_LS)))]
            recent = sum(w * v for w, v in zip(weights, values_LS, strict=True)) / sum(weights)
            expected = torch.cat(
                [values_LS.mean(0), values_LS.max(0).values, values_LS[-1], recent]
            )
        torch.testing.assert_close(found_BS[row], expected)


def test_learned_vectors_are_the_sum_of_a_content_part_and_an_id_part() -> None:
    torch.manual_seed(2)
    learned = LearnedVectors(content_dim=4, hidden_dim=6, dim=3, n_rows=5)
    content_UC, row_U = torch.randn(2, 4), torch.tensor([0, 3])
    assert learned.id is not None
    first, last = learned.content[0], learned.content[2]
    for position in range(2):
        hidden = (first.weight @ content_UC[position] + first.bias).clamp_min(0)
        expected = last.weight @ hidden + last.bias
        expected = expected + learned.ID_SCALE * learned.id.weight[row_U[position]]
        torch.testing.assert_close(learned(content_UC, row_U)[position], expected)
    alone = LearnedVectors(content_dim=4, hidden_dim=6, dim=3, n_rows=None)
    assert torch.equal(alone(content_UC, row_U), alone(content_UC, torch.tensor([1, 1])))

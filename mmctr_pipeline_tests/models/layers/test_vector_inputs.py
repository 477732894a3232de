"""Vectors are standardised by stored statistics, or multiplied by a learned matrix."""

import pytest
import torch

from mmctr_pipeline.models.layers.vector_inputs import VectorProjection, VectorScaling

DIM = 6


def test_scaling_standardises_over_present_items_only() -> None:
    torch.manual_seed(4)
    vectors_ID = torch.randn(200, DIM) * torch.tensor([1.0, 10.0, 0.1, 1e-3, 1.0, 1.0]) + 5
    vectors_ID[:, 4] = 0.1  # does not vary
    present_I = torch.rand(200) > 0.3
    vectors_ID[~present_I] = 1e6
    scaling = VectorScaling(DIM)
    scaling.fit(vectors_ID, present_I)
    scaled_ID = scaling(vectors_ID, present_I)

    varying = [0, 1, 2, 3, 5]
    present = vectors_ID[present_I].double()
    expected = (present - present.mean(0)) / present.std(0, correction=0)
    assert torch.allclose(
        scaled_ID[present_I][:, varying].double(), expected[:, varying], atol=1e-2
    )
    assert scaled_ID[present_I][:, 4].abs().max() < 1e-6
    assert torch.count_nonzero(scaled_ID[~present_I]) == 0
    assert bool(torch.isfinite(scaled_ID).all())


def test_scaling_is_part_of_the_saved_state_but_not_trained() -> None:
    scaling = VectorScaling(DIM)
    assert set(scaling.state_dict()) == {"mean_D", "scale_D"}
    assert list(scaling.parameters()) == []


def test_scaling_without_any_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="no item has a vector"):
        VectorScaling(DIM).fit(torch.zeros(3, DIM), torch.zeros(3, dtype=torch.bool))


def test_projection_multiplies_by_a_learned_matrix_and_leaves_absent_items_zero() -> None:
    torch.manual_seed(4)
    projection = VectorProjection(DIM)
    vectors_ID = torch.randn(20, DIM, dtype=torch.float64)
    present_I = torch.arange(20) % 3 > 0
    projected_ID = projection(vectors_ID, present_I)
    (weight_DD,) = projection.parameters()
    assert weight_DD.requires_grad
    expected = vectors_ID[present_I].float() @ weight_DD.T
    torch.testing.assert_close(projected_ID[present_I], expected)
    assert not projected_ID[~present_I].any()

"""Quadratic layers equal their formula and drop rows or outputs in training."""

import pytest
import torch

from mmctr_pipeline.models.layers.quadratic import QuadraticBlock, QuadraticLayer
from mmctr_pipeline_tests.models.layers.ragged_case import assert_same, result_and_gradients

DIM = 6


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_rows", [1, 4])
def test_a_layer_is_the_sum_of_its_rows(n_rows: int, training: bool) -> None:
    torch.manual_seed(0)
    layer = QuadraticLayer(DIM, n_rows).double().train(training)
    x_BD = torch.randn(9, DIM, dtype=torch.float64, requires_grad=True)

    def plain() -> torch.Tensor:
        result = torch.zeros(9, DIM, dtype=torch.float64)
        for row in range(n_rows):
            part = slice(row * DIM, (row + 1) * DIM)
            result = result + x_BD * (x_BD @ layer.rows.weight[part].T + layer.rows.bias[part])
        return result

    leaves = [x_BD, *layer.parameters()]
    assert_same(
        result_and_gradients(lambda: layer(x_BD), leaves), result_and_gradients(plain, leaves)
    )


def test_dropout_within_a_layer_drops_single_rows_in_training_only() -> None:
    torch.manual_seed(1)
    layer = QuadraticLayer(DIM, 3, dropout=0.5)
    torch.nn.init.zeros_(layer.rows.weight)
    torch.nn.init.ones_(layer.rows.bias)
    x_BD = torch.full((500, DIM), 5.0)
    # Each of the three rows gives 5, which is dropped or doubled.
    assert layer(x_BD).unique().tolist() == [0.0, 10.0, 20.0, 30.0]
    assert layer.eval()(x_BD).unique().tolist() == [15.0]


def test_a_block_passes_its_input_on_where_the_quadratic_part_is_dropped() -> None:
    torch.manual_seed(2)
    block = QuadraticBlock(DIM, 2, dropout=0.5)
    x_BD = torch.randn(500, DIM)
    assert 0.4 < (block(x_BD) == x_BD).float().mean() < 0.6
    assert (block.eval()(x_BD) == x_BD).float().mean() < 0.01


@pytest.mark.parametrize("row_dropout", [0.0, 0.5])
def test_a_block_is_close_under_autocast_and_does_not_round_its_input(
    row_dropout: float,
) -> None:
    torch.manual_seed(3)
    block = QuadraticBlock(64, 4, row_dropout=row_dropout)
    x_BD = torch.randn(300, 64)
    torch.manual_seed(4)
    expected_BD = block(x_BD)
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded_BD = block(x_BD)
        assert block.quadratic(x_BD).dtype == torch.bfloat16
    assert rounded_BD.dtype == torch.float32
    assert (rounded_BD - expected_BD).abs().max() < 0.05 * expected_BD.abs().max()
    torch.nn.init.zeros_(block.norm.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(x_BD), x_BD)

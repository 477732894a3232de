"""The cross network of DCNv2 equals its formula and the layer of FuxiCTR."""

import pytest
import torch
from torch.nn import functional

from mmctr_pipeline.models.layers.cross_network import CrossNetwork
from mmctr_pipeline.models.layers.staircase import Staircase
from mmctr_pipeline_tests.models.layers.ragged_case import assert_same, result_and_gradients
from mmctr_pipeline_tests.models.layers.test_staircase import STAIRS, stepped

DIM = 9


def random_network(n_layers: int) -> CrossNetwork:
    network = CrossNetwork(DIM, n_layers).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return network


def plain(network: CrossNetwork, x_BD: torch.Tensor) -> torch.Tensor:
    state_BD = x_BD
    for layer in network.layers:
        state_BD = x_BD * functional.linear(state_BD, layer.weight, layer.bias) + state_BD
    return state_BD


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(
    "stairs", [Staircase.full(6, DIM), STAIRS, Staircase((6,), (4,)), Staircase((2, 6), (9, 4))]
)
def test_result_and_gradients_equal_the_formula(n_layers: int, stairs: Staircase) -> None:
    torch.manual_seed(0)
    network = random_network(n_layers)
    x_BD = stepped(stairs, DIM)
    inside_BD = x_BD.detach() != 0
    leaves = [x_BD, *network.parameters()]
    ours = result_and_gradients(lambda: network(x_BD, stairs), leaves)
    theirs = result_and_gradients(lambda: plain(network, x_BD), leaves)
    theirs[1] = theirs[1] * inside_BD
    assert_same(ours, theirs)
    assert not ours[0][~inside_BD].any()


def test_an_empty_batch_gives_an_empty_result_and_zero_gradients() -> None:
    network = random_network(2)
    crossed_BD = network(torch.zeros(0, DIM, dtype=torch.float64), Staircase.from_widths([]))
    assert crossed_BD.shape == (0, DIM)
    crossed_BD.sum().backward()
    assert all(bool((parameter.grad == 0).all()) for parameter in network.parameters())


def test_bfloat16_under_autocast_rounds_products_but_not_the_sums() -> None:
    torch.manual_seed(1)
    network = random_network(2)
    exact_BD = stepped(STAIRS, DIM)
    leaves = [exact_BD, *network.parameters()]
    exact = result_and_gradients(lambda: network(exact_BD, STAIRS), leaves)
    network.float()
    x_BD = exact_BD.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        low = result_and_gradients(lambda: network(x_BD, STAIRS), [x_BD, *network.parameters()])
    for float64, rounded in zip(exact, low, strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - float64).norm() / float64.norm() < 0.02
    for layer in network.layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x_BD, STAIRS), x_BD)


@pytest.mark.bench
@pytest.mark.parametrize("n_layers", [1, 3])
def test_results_equal_those_of_fuxictr_with_the_same_weights(n_layers: int) -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    from fuxictr.pytorch.layers import CrossNetV2

    torch.manual_seed(2)
    ours, theirs = CrossNetwork(64, n_layers), CrossNetV2(64, n_layers)
    weights = {f"cross_{name}": value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights)
    stairs = Staircase((10, 30), (64, 40))
    x_BD = stepped(stairs, 64).detach().float()
    for steps in (Staircase.full(30, 64), stairs):
        torch.testing.assert_close(ours(x_BD, steps), theirs(x_BD), atol=1e-6, rtol=1e-5)

"""Dropout drops the configured share independently, and scales values and gradients alike."""

import pytest
import torch

from mmctr_pipeline.models.layers.dropout import Dropout

N = 1 << 18


def dropped(rate: float, shape: tuple[int, ...] = (N,), seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(rate)(torch.ones(shape))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_the_configured_share_is_zero_and_the_rest_is_scaled_up(rate: float) -> None:
    values = dropped(rate)
    five_deviations = 5 * (rate * (1 - rate) / N) ** 0.5
    assert float((values == 0).double().mean()) == pytest.approx(rate, abs=five_deviations)
    kept = values[values != 0]
    assert bool((kept == kept[0]).all())
    assert float(kept[0]) == pytest.approx(1 / (1 - rate), rel=2e-4)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8])
def test_neighbours_are_dropped_independently(lag: int) -> None:
    """Values fewer than four positions apart may come from the same random number."""
    is_kept = (dropped(0.3) != 0).double()
    pairs = torch.stack([is_kept[:-lag], is_kept[lag:]])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 5 / N**0.5


@pytest.mark.parametrize("part", range(4))
def test_each_quarter_of_a_random_number_drops_the_same_share(part: int) -> None:
    share = float((dropped(0.3)[part::4] == 0).double().mean())
    assert share == pytest.approx(0.3, abs=5 * (0.21 * 4 / N) ** 0.5)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 5), (0, 4)])
def test_any_shape_is_kept(shape: tuple[int, ...]) -> None:
    values = dropped(0.5, shape)
    assert values.shape == shape
    assert bool(((values == 0) | (values == 2)).all())


def test_evaluation_and_a_rate_of_zero_pass_values_through() -> None:
    values = torch.randn(50)
    state = torch.get_rng_state()
    assert torch.equal(Dropout(0.0)(values), values)
    assert torch.equal(Dropout(0.9).eval()(values), values)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rate_of_one_drops_everything() -> None:
    assert not bool(dropped(1.0, (1000,)).any())


def test_values_and_gradients_are_scaled_by_the_same_mask() -> None:
    torch.manual_seed(0)
    values = (torch.randn(11, 7) + 5).requires_grad_()
    result = Dropout(0.4)(values)
    weights = torch.randn(11, 7)
    (result * weights).sum().backward()
    scale = (result / values).detach()
    assert set((scale == 0).flatten().tolist()) == {True, False}
    assert torch.allclose(values.grad, weights * scale, rtol=1e-5)


def test_values_may_be_non_contiguous() -> None:
    torch.manual_seed(0)
    values = torch.arange(1.0, 36).view(5, 7).t().requires_grad_()
    result = Dropout(0.5)(values)
    assert bool(((result == 0) | (result == 2 * values)).all())
    assert 0 < int((result == 0).sum()) < 35


def test_draws_follow_the_seed_and_differ_between_calls() -> None:
    layer, values = Dropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = layer(values), layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first)
    assert not torch.equal(second, first)
    assert not torch.equal(dropped(0.5, (1000,), seed=4), dropped(0.5, (1000,), seed=5))


def test_bfloat16_values_stay_bfloat16_and_keep_their_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(N + 1, dtype=torch.bfloat16, requires_grad=True)
    result = Dropout(0.3)(values)
    result.sum().backward()
    assert result.dtype == torch.bfloat16
    assert values.grad is not None
    assert values.grad.dtype == torch.bfloat16
    assert torch.equal(values.grad, result)
    # The scale of 1 / 0.7 is rounded to bfloat16's 8 bits.
    assert float(result.detach().double().mean()) == pytest.approx(1, abs=0.01)


def test_dropout_accepts_the_output_of_a_linear_layer_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        result = Dropout(0.5)(torch.nn.Linear(3, 5)(torch.ones(2, 3)))
    assert result.dtype == torch.bfloat16

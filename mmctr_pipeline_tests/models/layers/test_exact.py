"""Products under autocast that keep the digits of float32."""

import torch

from mmctr_pipeline.models.layers.exact import ExactLinear, at_least_float32, exact_dots


def test_under_autocast_results_are_those_without() -> None:
    torch.manual_seed(0)
    layer, x_ND, y_ND = ExactLinear(8, 3), torch.randn(50, 8), torch.randn(50, 8)
    linear_NO, dots_N = layer(x_ND), exact_dots(x_ND, y_ND)
    torch.testing.assert_close(dots_N, (x_ND * y_ND).sum(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x_ND), linear_NO)
        assert torch.equal(exact_dots(x_ND, y_ND), dots_N)
        # What these are there for.
        assert torch.linalg.vecdot(x_ND, y_ND).dtype == torch.bfloat16


def test_short_formats_become_float32_and_others_stay() -> None:
    for short in (torch.bfloat16, torch.float16, torch.float32):
        assert at_least_float32(torch.ones(2, dtype=short)).dtype == torch.float32
    assert at_least_float32(torch.ones(2, dtype=torch.float64)).dtype == torch.float64

"""CPU kernels fall back to documented operators where the fast ones do not work."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from mmctr_pipeline.encoders import cpu_kernels

N_IN, N_OUT = 32, 48


def random_weights(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight_ED = torch.randn(N_OUT, N_IN, generator=generator) / N_IN**0.5
    return weight_ED.to(dtype), torch.randn(N_OUT, generator=generator).to(dtype)


def replace_operators(
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[..., torch.Tensor],
    multiply: Callable[..., torch.Tensor],
) -> None:
    """Replace the undocumented operators, so that a test does not depend on the CPU."""
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", pack)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", multiply)


def refuse(*arguments: object) -> torch.Tensor:
    raise RuntimeError("bf16 path needs the cpu support avx_ne_convert")


@pytest.fixture(params=["packed", "documented"])
def _bfloat16_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force one of the two bfloat16 paths; replace operators that do not work on this CPU."""
    is_packed = request.param == "packed"
    if not is_packed:
        replace_operators(monkeypatch, refuse, refuse)
    else:
        if not cpu_kernels.packed_linear_works():
            replace_operators(
                monkeypatch,
                torch.clone,
                lambda x, packed, bias, attr, scalars, algorithm: (
                    x.float() @ packed.T.float() + bias.float()
                ).to(x.dtype),
            )
        monkeypatch.setattr(functional, "linear", refuse)
    monkeypatch.setattr(cpu_kernels, "packed_linear_works", lambda: is_packed)


@pytest.mark.usefixtures("_bfloat16_path")
@pytest.mark.parametrize("shape", [(5,), (3, 7), (1, 1)])
def test_both_bfloat16_paths_round_the_exact_product(shape: tuple[int, ...]) -> None:
    weight_ED, bias_E = random_weights(torch.bfloat16)
    x = torch.randn(*shape, N_IN, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = cpu_kernels.affine(weight_ED, bias_E)(x)
    exact = x.double() @ weight_ED.double().T + bias_E.double()
    assert found.dtype == torch.bfloat16
    # bfloat16 has eight significant bits. A CPU may round the product before it adds the bias.
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-6)


def test_float32_takes_the_documented_path(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_operators(monkeypatch, refuse, refuse)
    monkeypatch.setattr(cpu_kernels, "packed_linear_works", lambda: True)
    weight_ED, bias_E = random_weights(torch.float32)
    x_BD = torch.randn(5, N_IN)
    expected_BE = functional.linear(x_BD, weight_ED, bias_E)
    assert torch.equal(cpu_kernels.affine(weight_ED, bias_E)(x_BD), expected_BE)


def return_zeros(x: torch.Tensor, *rest: object) -> torch.Tensor:
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("pack", "multiply"),
    [(refuse, return_zeros), (torch.clone, refuse), (torch.clone, return_zeros)],
)
def test_operators_that_refuse_the_cpu_or_multiply_wrongly_are_not_used(
    pack: Callable[..., torch.Tensor],
    multiply: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_operators(monkeypatch, pack, multiply)
    assert not cpu_kernels.packed_linear_works.__wrapped__()


def test_operators_that_torch_lacks_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not cpu_kernels.packed_linear_works.__wrapped__()

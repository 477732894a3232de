"""CPU kernels that use undocumented torch operators, each beside its documented fallback.

Use such an operator only through this module. It is tried once per process on a tiny input, since
whether it works depends on the CPU and on the build of torch.
"""

import functools
from collections.abc import Callable

import torch
from torch.nn import functional

Affine = Callable[[torch.Tensor], torch.Tensor]
"""Maps `(..., D)` to `(..., E)`: multiplies by a weight and adds a bias."""


def affine(weight_ED: torch.Tensor, bias_E: torch.Tensor) -> Affine:
    """Return `functional.linear` with this weight and bias, as fast as the device allows.

    In bfloat16 on a CPU, oneDNN would rearrange the weight in memory for each product. Where
    possible it is rearranged here, once.
    """
    on_cpu = weight_ED.device.type == "cpu"
    if on_cpu and weight_ED.dtype == torch.bfloat16 and packed_linear_works():
        return _packed_affine(weight_ED, bias_E)
    return lambda x: functional.linear(x, weight_ED, bias_E)


@functools.cache
def packed_linear_works() -> bool:
    """Return whether this CPU and this torch can multiply by a rearranged bfloat16 weight.

    torch refuses on x86 CPUs without AVX512 or AVX-NE-CONVERT.
    """
    weight_ED = torch.eye(16, dtype=torch.bfloat16, device="cpu")
    bias_E = torch.ones_like(weight_ED[0])
    try:
        product_BE = _packed_affine(weight_ED, bias_E)(weight_ED)
    except (AttributeError, RuntimeError):
        # The operators are missing, or do not support this CPU.
        return False
    return torch.equal(product_BE, weight_ED + bias_E)


def _packed_affine(weight_ED: torch.Tensor, bias_E: torch.Tensor) -> Affine:
    # torch.compile emits these two operators.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_ED)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x: multiply(x, packed, bias_E, "none", [], "")

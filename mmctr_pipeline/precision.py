"""The number format that matrix products are computed in, by configuration and device.

`float32` means IEEE single precision: TensorFloat-32 stays off in matrix products, as torch has it
by default (in convolutions torch allows it), so that float32 figures of different devices are
comparable. Who wants speed takes bfloat16.
"""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def dtype_for(precision: str, device: torch.device | str) -> torch.dtype:
    """Return the dtype that `precision` (auto, float32 or bfloat16) stands for on a device.

    `auto` is bfloat16 where the hardware multiplies in it, else float32: elsewhere bfloat16 is
    emulated, and slower.
    """
    if precision != "auto":
        return DTYPES[precision]
    return torch.bfloat16 if _multiplies_in_bfloat16(torch.device(device)) else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype of `DTYPES`, as identities show it."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def product_dtype(values: torch.Tensor) -> torch.dtype:
    """Return the number format of matrix products with `values`: autocast's, or their own."""
    device_type = values.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return values.dtype


def _multiplies_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

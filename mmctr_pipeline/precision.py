"""The dtype of matrix products, chosen by configuration and device.

`float32` means IEEE single precision: TensorFloat-32 stays off in matrix products. That is the
default of torch, which allows TensorFloat-32 only in convolutions. So float32 results of different
devices are comparable. Use bfloat16 for speed.
"""

import torch


def dtype_for(precision: str, device: torch.device | str) -> torch.dtype:
    """Return the dtype for a precision (auto, float32 or bfloat16) on a device.

    `auto` is bfloat16 on hardware that multiplies in it. Elsewhere it is float32, which is faster
    than emulated bfloat16.
    """
    if precision == "auto":
        return torch.bfloat16 if multiplies_in_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as model files and encoders record it, such as float32."""
    return str(dtype).removeprefix("torch.")


def product_dtype(values: torch.Tensor) -> torch.dtype:
    """Return the dtype of matrix products with `values`: that of autocast if on, else their own."""
    device_type = values.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return values.dtype


def multiplies_in_bfloat16(device: torch.device | str) -> bool:
    """Return whether a device multiplies in bfloat16 itself, rather than emulating it."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

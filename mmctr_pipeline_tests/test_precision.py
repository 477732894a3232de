"""The number format follows from the setting and the hardware."""

import pytest
import torch

from mmctr_pipeline.precision import dtype_for, dtype_name


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_an_explicit_precision_applies_to_any_device(device: str) -> None:
    assert dtype_for("float32", device) == torch.float32
    assert dtype_for("bfloat16", device) == torch.bfloat16


def test_auto_is_bfloat16_only_on_processors_that_multiply_in_it() -> None:
    capabilities = torch.cpu.get_capabilities()
    expected = (
        torch.bfloat16
        if capabilities.get("avx512_bf16")
        or capabilities.get("amx_bf16")
        or capabilities.get("bf16")
        else torch.float32
    )
    assert dtype_for("auto", "cpu") == expected
    # What the device `meta` can multiply in is unknown.
    assert dtype_for("auto", "meta") == torch.float32


def test_dtype_names_are_those_of_the_setting() -> None:
    assert [dtype_name(dtype_for(name, "cpu")) for name in ("float32", "bfloat16")] == [
        "float32",
        "bfloat16",
    ]

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import mmctr_pipeline.encoders
from mmctr_pipeline.encoders.image.pixels import PixelSpec, fitted, normalised

TINY_CLIP = Path(mmctr_pipeline.encoders.__file__).parent / "tiny_clip"
# As open_clip has it for RN50 with OpenAI's weights.
RN50: dict[str, Any] = {
    "size": 224,
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def prepared(image: Image.Image, spec: PixelSpec) -> torch.Tensor:
    """Return `(3, H, W) float32` pixels of a whole image."""
    pixels = fitted(image, (0, 0, *image.size), spec.resized(*image.size), spec)
    return normalised(torch.from_numpy(pixels)[None], spec)[0]


@pytest.mark.parametrize(
    ("size", "interpolation", "resize_mode", "fill_color"),
    [
        *itertools.product(
            [64, (48, 64)], ["bicubic", "bilinear"], ["shortest", "longest", "squash"], [0, 200]
        ),
        (224, "random", "shortest", 0),
    ],
)
def test_pixels_are_those_of_open_clip_to_the_bit(
    size: int | tuple[int, int], interpolation: str, resize_mode: str, fill_color: int
) -> None:
    cfg = RN50 | {
        "size": size,
        "interpolation": interpolation,
        "resize_mode": resize_mode,
        "fill_color": fill_color,
    }
    spec = PixelSpec.from_open_clip(cfg)
    preprocess = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    for image in (noise(201, 123), noise(90, 157), noise(64, 64), noise(7, 5), noise(81, 99, "L")):
        assert torch.equal(prepared(image, spec), preprocess(image))


def test_cmyk_is_resized_before_it_is_converted() -> None:
    image, spec = noise(99, 81, "CMYK"), PixelSpec.from_open_clip(RN50)
    expected = image_transform_v2(PreprocessCfg(**RN50), is_train=False)(image)
    assert torch.equal(prepared(image, spec), expected)
    assert not torch.equal(prepared(image.convert("RGB"), spec), expected)


def test_the_spec_of_a_loaded_model_gives_its_own_preprocessing() -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{TINY_CLIP}")
    spec = PixelSpec.from_open_clip(model.visual.preprocess_cfg)
    assert spec.size == (64, 64)
    image = noise(120, 90)
    assert torch.equal(prepared(image, spec), preprocess(image))


def test_a_side_that_would_vanish_keeps_one_row() -> None:
    spec = PixelSpec.from_open_clip(RN50 | {"resize_mode": "longest"})
    assert spec.resized(5_000, 1) == (224, 1)
    assert spec.resized(1, 5_000) == (1, 224)


def test_one_number_stands_for_all_channels() -> None:
    spec = PixelSpec.from_open_clip(RN50 | {"mean": 0.5, "std": 0.25})
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_normalised_is_channels_last_and_leaves_its_input_alone() -> None:
    pixels = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    before = pixels.clone()
    result = normalised(pixels, PixelSpec.from_open_clip(RN50))
    assert result.shape == (2, 3, 6, 5)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("bad", [torch.zeros(2, 6, 5, 3), torch.zeros(2, 3, 6, 5).byte()])
def test_pixels_of_another_shape_or_type_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected pixels \(B, H, W, 3\) uint8, not \(2, "):
        normalised(bad, PixelSpec.from_open_clip(RN50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'; known: bicubic, bil"),
        ({"resize_mode": "crop"}, "unknown resize_mode 'crop'; known: shortest, longest, sq"),
        ({"size": (0, 9)}, "at least 1 x 1"),
    ],
)
def test_what_open_clip_does_not_know_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelSpec.from_open_clip(RN50 | change)

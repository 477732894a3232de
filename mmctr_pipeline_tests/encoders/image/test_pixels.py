"""Images become RGB, grey or CMYK, and are resized and normalised as by open_clip."""

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
from mmctr_pipeline.encoders.image.pixels import PixelSpec, as_colour, fitted, normalised

TINY_CLIP = Path(mmctr_pipeline.encoders.__file__).parent / "tiny_clip"
# open_clip's settings for RN50 with OpenAI's weights.
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
def test_pixels_equal_open_clip_bit_for_bit(
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


def test_spec_of_a_loaded_model_equals_its_preprocessing() -> None:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{TINY_CLIP}")
    spec = PixelSpec.from_open_clip(model.visual.preprocess_cfg)
    assert spec.size == (64, 64)
    image = noise(120, 90)
    assert torch.equal(prepared(image, spec), preprocess(image))


def test_a_side_that_rounds_to_zero_becomes_one_pixel() -> None:
    spec = PixelSpec.from_open_clip(RN50 | {"resize_mode": "longest"})
    assert spec.resized(5_000, 1) == (224, 1)
    assert spec.resized(1, 5_000) == (1, 224)


def test_a_single_mean_or_std_applies_to_all_channels() -> None:
    spec = PixelSpec.from_open_clip(RN50 | {"mean": 0.5, "std": 0.25})
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_normalised_is_channels_last_and_does_not_change_its_input() -> None:
    pixels = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
    before = pixels.clone()
    result = normalised(pixels, PixelSpec.from_open_clip(RN50))
    assert result.shape == (2, 3, 6, 5)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("bad", [torch.zeros(2, 6, 5, 3), torch.zeros(2, 3, 6, 5).byte()])
def test_pixels_of_another_shape_or_dtype_are_rejected(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected pixels \(B, H, W, 3\) uint8, not \(2, "):
        normalised(bad, PixelSpec.from_open_clip(RN50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpolation": "nearest"}, "unknown interpolation 'nearest'; known: bicubic, bilinear"),
        ({"resize_mode": "crop"}, "unknown resize_mode 'crop'; known: shortest, longest, squash"),
        ({"size": (0, 9)}, "at least 1 x 1"),
    ],
)
def test_invalid_preprocessing_is_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelSpec.from_open_clip(RN50 | change)


def grey(image: Image.Image) -> list[int]:
    assert image.mode == "L"
    return np.asarray(image).ravel().tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_images_of_ordinary_modes_are_returned_unchanged(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    assert as_colour(image) is image


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(order: str) -> None:
    values = np.array([[0, 300, 30_000, 65_535]], dtype=order)
    image = Image.fromarray(values)
    assert image.mode.startswith("I;16")
    assert grey(as_colour(image)) == [0, 1, 117, 255]
    # Pillow would clip these values, and so would open_clip, which uses it.
    assert np.asarray(image.convert("RGB"))[0, 1:, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.1, 0.2], [0, 26, 51]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([0.0, 257.0, 25_700.0], [0, 1, 100]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 2e5, 1e6], [0, 51, 255]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_to_their_likely_white_level(
    values: list[float], expected: list[int]
) -> None:
    assert grey(as_colour(Image.fromarray(np.array([values], dtype=np.float32)))) == expected


def test_integers_are_scaled_like_floats() -> None:
    values = np.array([[0, 25_700, 65_535]], dtype=np.int32)
    image = Image.fromarray(values)
    assert image.mode == "I"
    assert grey(as_colour(image)) == [0, 100, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_rejected(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        as_colour(Image.fromarray(np.array([[0.0, value]], dtype=np.float32)))


def test_transparency_is_blended_over_white() -> None:
    values = np.array([[[200, 100, 0, 255], [200, 100, 0, 51], [200, 100, 0, 0]]], dtype=np.uint8)
    # One fifth of the colour and four fifths of white.
    expected = [[200, 100, 0], [244, 224, 204], [255, 255, 255]]
    image = as_colour(Image.fromarray(values))
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == expected
    faded = Image.new("LA", (1, 1), (0, 51))
    assert as_colour(faded).getpixel((0, 0)) == (204, 204, 204)


def test_a_colour_marked_as_transparent_becomes_white() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    image.info["transparency"] = (10, 20, 30)
    assert np.asarray(as_colour(image))[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_a_palette_becomes_rgb_and_one_bit_becomes_grey() -> None:
    colours = Image.new("RGB", (2, 1), (255, 0, 0))
    colours.putpixel((1, 0), (0, 0, 255))
    palette = as_colour(colours.quantize(2))
    assert palette.mode == "RGB"
    assert np.array_equal(np.asarray(palette), np.asarray(colours))
    two_levels = Image.new("1", (2, 1))
    two_levels.putpixel((1, 0), 255)
    assert grey(as_colour(two_levels)) == [0, 255]

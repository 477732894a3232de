import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.encoders.image.pixels import as_colour


def grey(image: Image.Image) -> list[int]:
    assert image.mode == "L"
    return np.asarray(image).ravel().tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_ordinary_pictures_come_back_as_they_are(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    assert as_colour(image) is image


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled_and_not_clipped(order: str) -> None:
    values = np.array([[0, 300, 30_000, 65_535]], dtype=order)
    image = Image.fromarray(values)
    assert image.mode.startswith("I;16")
    assert grey(as_colour(image)) == [0, 1, 117, 255]
    # What Pillow, and so open_clip, would make of it.
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
def test_numbers_without_a_white_are_scaled_by_the_usual_ones(
    values: list[float], expected: list[int]
) -> None:
    assert grey(as_colour(Image.fromarray(np.array([values], dtype=np.float32)))) == expected


def test_whole_numbers_are_scaled_alike() -> None:
    values = np.array([[0, 25_700, 65_535]], dtype=np.int32)
    image = Image.fromarray(values)
    assert image.mode == "I"
    assert grey(as_colour(image)) == [0, 100, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        as_colour(Image.fromarray(np.array([[0.0, value]], dtype=np.float32)))


def test_transparency_lies_over_white() -> None:
    values = np.array([[[200, 100, 0, 255], [200, 100, 0, 51], [200, 100, 0, 0]]], dtype=np.uint8)
    # A fifth of the colour and four fifths of white.
    expected = [[200, 100, 0], [244, 224, 204], [255, 255, 255]]
    image = as_colour(Image.fromarray(values))
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == expected
    faded = Image.new("LA", (1, 1), (0, 51))
    assert as_colour(faded).getpixel((0, 0)) == (204, 204, 204)


def test_a_transparent_colour_lies_over_white_too() -> None:
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    image.info["transparency"] = (10, 20, 30)
    assert np.asarray(as_colour(image))[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_palettes_and_two_levels_become_something_that_can_be_averaged() -> None:
    colours = Image.new("RGB", (2, 1), (255, 0, 0))
    colours.putpixel((1, 0), (0, 0, 255))
    palette = as_colour(colours.quantize(2))
    assert palette.mode == "RGB"
    assert np.array_equal(np.asarray(palette), np.asarray(colours))
    two_levels = Image.new("1", (2, 1))
    two_levels.putpixel((1, 0), 255)
    assert grey(as_colour(two_levels)) == [0, 255]

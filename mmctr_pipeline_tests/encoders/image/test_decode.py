"""Covers are decoded as by open_clip, or refused with a reason."""

import dataclasses
import io
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from mmctr_pipeline.encoders.image.decode import (
    MAX_BYTES,
    UnreadableImageError,
    decode,
    open_cover,
    quiet_pillow,
    read_bytes,
)
from mmctr_pipeline.encoders.image.pixels import PixelSpec
from mmctr_pipeline_tests.encoders.image.broken_images import (
    AS_OPEN_CLIP,
    BROKEN,
    GOOD,
    MISSING,
    encoded,
    oriented,
    picture,
    write_broken_images,
)

SMALL = PixelSpec((32, 32), "bicubic", "shortest", (0, 0, 0), (1, 1, 1))
RN50 = PixelSpec((224, 224), "bicubic", "shortest", (0, 0, 0), (1, 1, 1))
NOWHERE = Path("x.jpg")


def pixels_of_open_clip(image: Image.Image, size: int = 32) -> np.ndarray:
    """Return the pixels of open_clip before normalisation, `(H, W, 3) uint8`."""
    cfg = PreprocessCfg(size=size, mean=(0, 0, 0), std=(1, 1, 1))
    pixels_CHW = image_transform_v2(cfg, is_train=False)(image)
    return (pixels_CHW.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def error_of(pixels: np.ndarray, expected: np.ndarray) -> float:
    """Return the mean absolute error in levels out of 255."""
    return float(np.abs(pixels.astype(float) - expected).mean())


def photograph(number: int, width: int, height: int) -> Image.Image:
    """Return a photograph, enlarged by mirrored copies to keep it sharp."""
    tile = load_sample_images().images[number]
    tile = np.concatenate([tile, tile[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]], axis=0)
    repeats = (-(-height // len(tile)), -(-width // tile.shape[1]), 1)
    return Image.fromarray(np.tile(tile, repeats)[:height, :width])


def texture(width: int, height: int) -> Image.Image:
    """Return noise with the spectrum of photographs (1/f), plus grain in every pixel."""
    random = np.random.default_rng(0)
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequency = np.maximum(np.hypot(down, across), 1 / max(width, height))
    channels = []
    for _ in range(3):
        spectrum = np.exp(2j * np.pi * random.random(frequency.shape)) / frequency
        smooth = np.fft.irfft2(spectrum, s=(height, width))
        channels.append(128 + 50 * smooth / smooth.std() + random.normal(0, 6, (height, width)))
    return Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_broken_images(path)
    return path


def over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


# The readable files that open_clip treats differently from us, each with a conversion of the image
# after which open_clip gives our pixels.
PREPARED: dict[int, Callable[[Image.Image], Image.Image]] = {
    3: lambda image: image.convert("RGB"),
    6: lambda image: image.convert("L"),
    7: lambda image: Image.fromarray((np.asarray(image) / 256).astype(np.uint8)),
    8: ImageOps.exif_transpose,
    9: lambda image: image.convert("RGB"),
    34: over_white,
    40: over_white,
}


@pytest.mark.parametrize("item", GOOD)
def test_readable_images_decode_to_the_pixels_of_open_clip(folder: Path, item: int) -> None:
    path = folder / f"{item}.jpg"
    with quiet_pillow(), Image.open(path) as image:
        assert image.mode == GOOD[item]
        pixels = decode(read_bytes(path), SMALL, path)
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
        assert np.array_equal(pixels, pixels_of_open_clip(image)) == (item in AS_OPEN_CLIP)
        if item not in AS_OPEN_CLIP:
            # `decode` and `over_white` blend alike, but round differently.
            assert error_of(pixels, pixels_of_open_clip(PREPARED[item](image))) < 0.5


def test_first_picture_of_several_is_decoded(folder: Path) -> None:
    expected = pixels_of_open_clip(picture(100))
    for item in (9, 32, 33, 36):
        path = folder / f"{item}.jpg"
        assert error_of(decode(read_bytes(path), SMALL, path), expected) < 5
    assert error_of(pixels_of_open_clip(picture(101)), expected) > 50


@pytest.mark.parametrize("item", BROKEN)
def test_each_broken_file_has_its_reason(folder: Path, item: int) -> None:
    path = folder / f"{item}.jpg"
    with pytest.raises(UnreadableImageError) as caught:
        decode(read_bytes(path), SMALL, path)
    assert caught.value.reason == BROKEN[item]
    assert f"{item}.jpg" in str(caught.value)


def test_files_that_cannot_be_opened_have_a_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="broken link"):
        read_bytes(folder / f"{MISSING[0]}.jpg")
    with pytest.raises(UnreadableImageError, match="cannot be read: ENOTDIR"):
        read_bytes(folder / "1.jpg" / "1.jpg")
    with (tmp_path / "1.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UnreadableImageError, match="file too large"):
        read_bytes(tmp_path / "1.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_file_without_read_permission_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    (tmp_path / "1.jpg").chmod(0)
    with pytest.raises(UnreadableImageError, match="no permission to read"):
        read_bytes(tmp_path / "1.jpg")


def test_too_many_pixels_are_detected_in_the_header(folder: Path) -> None:
    content = (folder / "17.jpg").read_bytes()
    header_alone = content[: content.index(b"IDAT") + 4]
    with pytest.raises(UnreadableImageError, match="too many pixels"):
        decode(header_alone, SMALL, NOWHERE)


def test_long_and_narrow_picture_is_rejected_before_it_is_enlarged() -> None:
    assert decode(encoded(picture(1, (1, 9_000)), "PNG"), SMALL, NOWHERE).shape == (32, 32, 3)
    with pytest.raises(UnreadableImageError, match="too long and narrow"):
        decode(encoded(picture(1, (1, 90_000)), "PNG"), SMALL, NOWHERE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    content = encoded(picture(1, (91, 61)), kind, exif=oriented(orientation))
    pixels = decode(content, SMALL, NOWHERE)
    assert np.array_equal(pixels, pixels_of_open_clip(ImageOps.exif_transpose(opened(content))))
    unturned = decode(encoded(picture(1, (91, 61)), kind), SMALL, NOWHERE)
    assert (error_of(pixels, unturned) < 3) == (orientation == 1)


@pytest.mark.parametrize(
    "size", [(896, 896), (1283, 963), pytest.param((1530, 2001), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 95, "subsampling": 0}])
def test_large_jpegs_are_decoded_smaller_within_the_documented_error(
    size: tuple[int, int], options: dict[str, int]
) -> None:
    pictures = [(photograph(0, *size), 1), (photograph(1, *size), 1), (texture(*size), 2)]
    for image, bound in pictures:
        content = encoded(image, "JPEG", **options)
        error = error_of(decode(content, RN50, NOWHERE), pixels_of_open_clip(opened(content), 224))
        # An error of zero would mean that the picture was decoded in full.
        assert 0 < error < bound


def test_jpegs_not_much_larger_than_the_model_input_are_decoded_in_full() -> None:
    content = encoded(photograph(0, 1_300, 895), "JPEG")
    assert np.array_equal(decode(content, RN50, NOWHERE), pixels_of_open_clip(opened(content), 224))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_turned_upright_to_a_fraction_of_a_pixel(orientation: int) -> None:
    # At 1/2, 1/4 and 1/8 of the size, the last column and row are fractions of a pixel.
    content = encoded(photograph(0, 1_025, 773), "JPEG", exif=oriented(orientation))
    expected = ImageOps.exif_transpose(opened(content))
    for size in (160, 80, 40):
        spec = dataclasses.replace(SMALL, size=(size, size))
        assert 0 < error_of(decode(content, spec, NOWHERE), pixels_of_open_clip(expected, size)) < 1


def test_a_turned_jpeg_is_decoded_smaller_if_its_upright_size_allows_it() -> None:
    # Upright, half the size is large enough for the model. Unturned, the full size would not be.
    content = encoded(photograph(0, 960, 200), "JPEG", exif=oriented(6))
    spec = dataclasses.replace(SMALL, size=(224, 32), resize_mode="squash")
    upright = encoded(ImageOps.exif_transpose(opened(content)), "PNG")
    assert 0 < error_of(decode(content, spec, NOWHERE), decode(upright, spec, NOWHERE)) < 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_intact_picture_with_invalid_exif_is_read(kind: str) -> None:
    expected = decode(encoded(picture(1), kind), SMALL, NOWHERE)
    content = encoded(picture(1), kind, exif=b"Exif\0\0no such thing")
    assert np.array_equal(decode(content, SMALL, NOWHERE), expected)


KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_called_truncated(kind: str) -> None:
    content = encoded(picture(5, (120, 90)), kind)
    assert decode(content, SMALL, NOWHERE).shape == (32, 32, 3)
    for tenths in range(1, 10):
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode(content[: len(content) * tenths // 10], SMALL, NOWHERE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_raises_only_unreadable_image_error(kind: str) -> None:
    random = np.random.default_rng(0)
    content = np.frombuffer(encoded(picture(5, (120, 90)), kind, exif=oriented(3)), np.uint8)
    n_read = 0
    for _ in range(100):
        damaged = content.copy()
        # The first bytes stay intact, so that Pillow still recognises the format.
        where = random.integers(12, min(len(content), random.choice([60, 400, 4_000])), 5)
        damaged[where] = random.integers(0, 256, 5)
        try:
            pixels = decode(damaged.tobytes(), SMALL, NOWHERE)
        except UnreadableImageError:
            continue
        assert pixels.shape == (32, 32, 3)
        n_read += 1
    assert n_read < 100


@pytest.mark.parametrize("orientation", [1, 6])
def test_covers_are_opened_upright_in_rgb_and_scaled(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(encoded(photograph(0, 1_024, 768), "JPEG", exif=oriented(orientation)))
    upright = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(np.asarray(open_cover(path)), np.asarray(upright))
    small = open_cover(path, within=96)
    assert small.mode == "RGB"
    assert small.size == ((96, 72) if orientation == 1 else (72, 96))
    assert 0 < error_of(np.asarray(small), np.asarray(ImageOps.contain(upright, (96, 96)))) < 2


def test_unreadable_covers_raise(folder: Path) -> None:
    assert open_cover(folder / "5.jpg").mode == "RGB"
    for item in (12, 15, 17, 41):
        with pytest.raises(UnreadableImageError, match=BROKEN[item]):
            open_cover(folder / f"{item}.jpg")


def test_not_blockingings_of_pillow_are_silenced(folder: Path) -> None:
    content = (folder / "35.jpg").read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(content, SMALL, NOWHERE)
        assert caught
        caught.clear()
        with quiet_pillow(), ThreadPoolExecutor(1) as pool:
            pool.submit(decode, content, SMALL, NOWHERE).result()
            assert not caught
            warnings.warn("not from Pillow", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["not from Pillow"]


def test_decoding_in_threads_gives_equal_pixels(folder: Path) -> None:
    contents = [read_bytes(folder / f"{item}.jpg") for item in GOOD] * 5

    def pixels(content: bytes) -> np.ndarray:
        return decode(content, SMALL, NOWHERE)

    with quiet_pillow(), ThreadPoolExecutor(4) as pool:
        together = list(pool.map(pixels, contents))
        for content, found in zip(contents, together, strict=True):
            assert np.array_equal(found, pixels(content))

"""Image formats are recognised by the first bytes of a file."""

import pytest

from mmctr_pipeline.encoders.image.formats import picture_format
from mmctr_pipeline_tests.encoders.image.broken_images import encoded, picture


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_readable_formats_are_recognised(name: str) -> None:
    assert picture_format(encoded(picture(1), name)) == name


@pytest.mark.parametrize("name", ["ICO", "JPEG2000", "PDF"])
def test_unreadable_formats_are_named(name: str) -> None:
    found = picture_format(encoded(picture(1), name))
    assert found is not None
    assert found.replace(" ", "") == name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "PSD"),
        (b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41", "MP4"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        # The same major brand, but with content that can be read.
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\xef\xbb\xbf  <SVG></SVG>", "SVG"),
        (b"<!DOCTYPE html><body><svg></svg></body>", None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"hello", None),
        (b"", None),
    ],
)
def test_formats_are_recognised_by_their_first_bytes(content: bytes, name: str | None) -> None:
    assert picture_format(content) == name

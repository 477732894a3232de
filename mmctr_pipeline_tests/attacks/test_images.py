"""Image bombs: small files that claim to be, or decode to, huge pictures."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.encoders.image.decode import UnreadableImageError, decode, open_cover
from mmctr_pipeline.encoders.image.pixels import PixelSpec
from mmctr_pipeline_tests.encoders.image.broken_images import encoded, picture

SPEC = PixelSpec((32, 32), "bicubic", "shortest", (0.5,) * 3, (0.5,) * 3)


def _png(width: int, height: int, kind: int = 2, bits: int = 8, data: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    """Return a small JPEG whose header claims another size."""
    content = bytearray(encoded(picture(1), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def _webp(width: int, height: int) -> bytes:
    """Return a small lossless WebP whose header claims another size."""
    content = bytearray(encoded(picture(2), "WEBP", lossless=True))
    at = content.index(b"VP8L") + 9
    bits = int.from_bytes(content[at : at + 4], "little") & ~(2**28 - 1)
    content[at : at + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(content)


def _gif(width: int, height: int) -> bytes:
    content = bytearray(encoded(picture(3), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def _bmp(width: int, height: int) -> bytes:
    content = bytearray(encoded(picture(4), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def _tiff(width: int, height: int) -> bytes:
    pixel = encoded(picture(5, (1, 1)), "TIFF")
    image = Image.open(io.BytesIO(pixel))
    assert image.size == (1, 1)
    for tag, size in ((256, width), (257, height)):
        pixel = pixel.replace(_tiff_entry(tag, 1), _tiff_entry(tag, size))
    return pixel


def _tiff_entry(tag: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, 4, 1, value)


BOMBS = {
    "png_of_4_billion_pixels": (_png(65_535, 65_535), "too many pixels"),
    "png_that_decodes_to_300_MB": (
        encoded(Image.new("1", (10_000, 10_000)), "PNG"),
        "too many pixels",
    ),
    "png_of_one_long_line": (_png(2**31 - 1, 1), "too many pixels"),
    "png_of_width_0": (_png(0, 100), "damaged"),
    "png_without_pixels": (_png(100, 100), "truncated damaged"),
    "png_with_too_much_data": (_png(2, 2, data=bytes(50_000_000)), ""),
    "jpeg_of_4_billion_pixels": (_jpeg(65_535, 65_535), "too many pixels"),
    "jpeg_of_height_0": (_jpeg(100, 0), "damaged truncated"),
    "jpeg_that_claims_a_larger_size": (_jpeg(9_000, 9_000), ""),
    "webp_of_268_million_pixels": (_webp(16_384, 16_384), "too many pixels"),
    "webp_that_claims_a_larger_size": (_webp(9_000, 9_000), "truncated damaged"),
    "gif_of_4_billion_pixels": (_gif(65_535, 65_535), "too many pixels"),
    "gif_of_size_0": (_gif(0, 0), ""),
    "bmp_of_4_billion_pixels": (_bmp(65_536, 65_536), "too many pixels"),
    "bmp_of_negative_size": (_bmp(-5, -5), "damaged too many pixels"),
    "bmp_of_the_smallest_int32_height": (_bmp(10, -(2**31)), "too many pixels damaged"),
    "tiff_of_4_billion_pixels": (_tiff(65_535, 65_535), "too many pixels"),
}
"""Content of each image, and the reasons for which it may be refused.

If none is listed, the image may be read, or refused for any reason.
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_with_an_expected_reason_or_read_without_harm(
    name: str, tmp_path: Path
) -> None:
    content, reasons = BOMBS[name]
    assert len(content) < 200_000
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    for read in (lambda: decode(content, SPEC, path), lambda: open_cover(path, within=32)):
        if reasons:
            with pytest.raises(UnreadableImageError) as error:
                read()
            assert error.value.reason in reasons
        else:
            with contextlib.suppress(UnreadableImageError):
                read()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_only_the_first_picture_of_an_animation_is_decoded(kind: str) -> None:
    frames = [picture(seed) for seed in range(40)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    animation = {"save_all": True, "append_images": frames[1:], "duration": 10}
    animated, first, eighth = (
        decode(content, SPEC, Path("x")).astype(int)
        for content in (
            encoded(frames[0], kind, **animation, **lossless),
            encoded(frames[0], kind, **lossless),
            encoded(frames[7], kind, **lossless),
        )
    )
    assert np.abs(animated - first).mean() < 2
    assert np.abs(animated - eighth).mean() > 5


PEAK_OF_DECODING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmctr_pipeline.encoders.image.decode import decode
from mmctr_pipeline.encoders.image.pixels import PixelSpec

def peak_kb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

path, n_threads = Path(sys.argv[1]), int(sys.argv[2])
spec = PixelSpec((32, 32), "bicubic", "shortest", (0.5,) * 3, (0.5,) * 3)
before = peak_kb()
with ThreadPoolExecutor(n_threads) as threads:
    list(threads.map(lambda _: decode(path.read_bytes(), spec, path), range(n_threads)))
print(peak_kb() - before)
"""


def _peak_mb(path: Path, n_threads: int) -> float:
    """Return by how many MB memory grows while `n_threads` threads each decode the picture."""
    # The picture is decoded in a new process. In this one, memory that earlier tests freed would
    # be used again, and hide the growth.
    command = [sys.executable, "-c", PEAK_OF_DECODING, str(path), str(n_threads)]
    return int(subprocess.check_output(command)) / 1024


@pytest.mark.slow
def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    # The file of 72 kB has 72 MB of pixels; a catalogue of such files must not fill the memory.
    path = tmp_path / "1.png"
    path.write_bytes(_png(6_000, 4_000, data=bytes(4_000 * (3 * 6_000 + 1))))
    assert path.stat().st_size < 100_000
    one_thread, five_threads = _peak_mb(path, 1), _peak_mb(path, 5)
    assert one_thread > 60
    assert five_threads < 2 * one_thread

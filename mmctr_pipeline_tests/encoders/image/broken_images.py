"""Writes a folder of good and broken image files of the kinds that real catalogues have."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# The mode in which Pillow opens each readable file. All are named .jpg, but some are not JPEG.
GOOD = {
    1: "RGB",
    2: "L",
    3: "P",
    4: "CMYK",
    5: "RGBA",
    6: "1",
    7: "I;16",  # a PNG of 16 bits
    8: "RGB",  # turned, with an EXIF orientation
    9: "P",  # an animated GIF
    10: "RGB",  # a single pixel
    31: "RGB",  # garbage follows the JPEG
    32: "RGB",  # an animated WEBP
    33: "RGB",  # an animated PNG
    34: "LA",
    35: "RGB",  # with a corrupt EXIF block
    36: "RGB",  # several pictures in one file, as phones write them (MPO)
    37: "RGB",  # AVIF
    38: "RGB",  # TIFF
    39: "RGB",  # BMP
    40: "P",  # with several degrees of transparency
}
# The files whose pixels equal those of open_clip's own preprocessing bit for bit.
AS_OPEN_CLIP = (1, 2, 4, 5, 10, 31, 32, 33, 35, 36, 37, 38, 39)
BROKEN = {
    11: "empty file",
    12: "not an image",
    13: "truncated",
    14: "a folder, not a file",
    15: "broken link",
    16: "circular link",
    17: "too many pixels",
    18: "damaged",
    19: "not a regular file",
    20: "format not supported: SVG",
    41: "truncated",  # half a WEBP
    42: "damaged",  # a small PNG whose text would take 10 MB
    43: "too many pixels",  # a PNG that claims 60,000 x 60,000
    44: "truncated",  # a JPEG without any pixels
    45: "format not supported: HEIC",
    46: "truncated",  # half a PNG
    47: "truncated",  # half an AVIF
    48: "truncated",  # half a GIF
}
MISSING = (21, 22)
ITEM_ID = np.array(sorted([*GOOD, *BROKEN, *MISSING]), dtype=np.int32)

_EXIF_ORIENTATION = 0x0112


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Return a smooth picture that depends on the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the content of a file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(orientation: int) -> Image.Exif:
    """Return an EXIF block with an orientation."""
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    return exif


def write_broken_images(folder: Path) -> None:
    """Write `{id}.jpg` for every id of `GOOD` and `BROKEN`."""
    for item, content in (_good_files() | _broken_files()).items():
        (folder / f"{item}.jpg").write_bytes(content)
    (folder / "14.jpg").mkdir()
    (folder / "15.jpg").symlink_to(folder / "gone.jpg")
    os.symlink(folder / "16.jpg", folder / "16.jpg")
    os.mkfifo(folder / "19.jpg")


def _good_files() -> dict[int, bytes]:
    files = {}
    for item in range(1, 7):
        # JPEG supports neither transparency nor palettes.
        kind = "JPEG" if GOOD[item] in ("RGB", "L", "CMYK") else "PNG"
        files[item] = encoded(picture(item, (40 + item, 48)).convert(GOOD[item]), kind)
    frames = [picture(100 + number) for number in range(3)]
    animated: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    sixteen_bits = (np.asarray(picture(7).convert("L")).astype(np.uint16) << 8) + 0x55
    transparent = picture(34).convert("LA")
    transparent.putalpha(picture(35).convert("L"))
    corrupt = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 40, _EXIF_ORIENTATION, 3, 5_000)
    return files | {
        7: encoded(Image.fromarray(sixteen_bits), "PNG"),
        8: encoded(picture(8), "JPEG", exif=oriented(6)),
        9: encoded(frames[0], "GIF", **animated),
        10: encoded(picture(10, (1, 1)), "JPEG"),
        31: encoded(picture(31), "JPEG") + b"<!-- served by cache 3 -->" * 20,
        32: encoded(frames[0], "WEBP", **animated),
        33: encoded(frames[0], "PNG", **animated),
        34: encoded(transparent, "PNG"),
        35: encoded(picture(35), "JPEG", exif=corrupt),
        36: encoded(frames[0], "MPO", **animated),
        37: encoded(picture(37), "AVIF"),
        38: encoded(picture(38), "TIFF", compression="tiff_lzw"),
        39: encoded(picture(39), "BMP"),
        40: encoded(picture(40).convert("P"), "PNG", transparency=bytes(range(256))),
    }


def _broken_files() -> dict[int, bytes]:
    jpeg, png = encoded(picture(1), "JPEG"), encoded(picture(3), "PNG")
    webp, avif = encoded(picture(41), "WEBP"), encoded(picture(47), "AVIF")
    gif = encoded(picture(48), "GIF")
    pixels = png.index(b"IDAT") + 10
    text = PngInfo()
    text.add_text("comment", " " * 10_000_000, zip=True)
    # The header's checksum is valid, so that only the claimed size is wrong.
    start = png.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[start + 12 : start + 17]
    huge = png[:start] + header + struct.pack(">I", zlib.crc32(header)) + png[start + 21 :]
    return {
        11: b"",
        12: b"<html><body>404 Not Found</body></html>",
        13: jpeg[: len(jpeg) * 3 // 4],
        # A PNG of a few kB that would decode to 300 MB: only its header may be read.
        17: encoded(Image.new("1", (10_000, 10_000)), "PNG"),
        18: png[:pixels] + bytes(20) + png[pixels + 20 :],
        20: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9"></svg>',
        41: webp[: len(webp) // 2],
        42: encoded(picture(42), "PNG", pnginfo=text),
        43: huge,
        44: jpeg[: jpeg.index(b"\xff\xda")],
        45: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        46: png[: len(png) // 2],
        47: avif[: len(avif) // 2],
        48: gif[: len(gif) // 2],
    }

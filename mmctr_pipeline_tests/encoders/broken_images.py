"""A folder of good and broken image files, as a catalogue collects them over the years."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

GOOD = {1: "RGB", 2: "L", 3: "P", 4: "CMYK", 5: "RGBA", 6: "1"}
BROKEN = {
    11: "empty file",
    12: "not an image",
    13: "truncated",
    14: "a folder, not a file",
    15: "a link to nothing",
    16: "a link in a circle",
    17: "too many pixels",
    18: "damaged",
}
MISSING = (21, 22)
ITEM_ID = np.array([*GOOD, *BROKEN, *MISSING], dtype=np.int32)


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Return a smooth picture, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_broken_images(folder: Path) -> None:
    """Write `{id}.jpg` for every id of `GOOD` and `BROKEN`."""
    for item, mode in GOOD.items():
        # Named .jpg, whatever they are: JPEG knows neither transparency nor a palette.
        kind = "JPEG" if mode in ("RGB", "L", "CMYK") else "PNG"
        picture(item, (40 + item, 48)).convert(mode).save(folder / f"{item}.jpg", kind)
    (folder / "11.jpg").write_bytes(b"")
    (folder / "12.jpg").write_text("<html><body>404 Not Found</body></html>")
    content = (folder / "1.jpg").read_bytes()
    (folder / "13.jpg").write_bytes(content[: len(content) // 2])
    (folder / "14.jpg").mkdir()
    (folder / "15.jpg").symlink_to(folder / "gone.jpg")
    os.symlink(folder / "16.jpg", folder / "16.jpg")
    # A PNG of a few kB that would take 300 MB: only its header may be looked at.
    Image.new("1", (10_000, 10_000)).save(folder / "17.jpg", "PNG")
    content = (folder / "3.jpg").read_bytes()
    middle = content.index(b"IDAT") + 10
    (folder / "18.jpg").write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])

"""A decoded picture of any mode becomes one of 8 bits that can be resized like any other."""

import numpy as np
from PIL import Image

# What a picture of whole or floating-point numbers may mean by white, if none of them exceeds it.
_WHITES = (1, 255, 65_535)


def as_colour(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB, L or CMYK; those three come back as they are.

    - Transparent parts are laid over white, the ground that catalogues show covers on: what a file
      keeps beneath them (often black) was never meant to be seen. A picture that is opaque
      throughout is not changed.
    - 16-bit grey keeps its upper 8 bits, as Pillow does with 16-bit colour; its own conversion of
      grey would clip everything above 255 to white.
    - 32-bit whole and floating-point numbers name no white: it is the least of 1, 255 and 65,535
      that none of them exceeds, else (and where any is negative) their own range is stretched.
    - Palette and two-level pictures become colour and grey before they are resized, which would
      otherwise pick single pixels instead of averaging them.

    Raises `ValueError` where a number is not finite.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _scaled(np.asarray(image))
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(values_HW: np.ndarray) -> Image.Image:
    black, white = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([black, white]).all():
        raise ValueError("a value is not finite")
    if black >= 0 and white <= max(_WHITES):
        black, white = 0.0, float(next(level for level in _WHITES if white <= level))
    scale = 255 / ((white - black) or 1.0)
    levels = values_HW.astype(np.float32) * np.float32(scale) - np.float32(black * scale)
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground

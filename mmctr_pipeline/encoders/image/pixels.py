"""Turn a decoded picture of any mode into a model's input pixels, bit for bit as open_clip does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")

# Values that may mean white in a picture of integers or floating-point numbers.
_WHITES = (1, 255, 65_535)


@dataclass(frozen=True)
class PixelSpec:
    """The inference preprocessing of an open_clip model.

    `size` is (height, width) in pixels. `resize_mode` says which side is scaled to that size: the
    shortest (the excess of the other is cropped), the longest (the rest is filled with
    `fill_color`, 0 to 255) or both (`squash`). `mean` and `std` are per channel, on a scale where
    white is 1. Raises `ValueError` for a value that open_clip does not know.
    """

    size: tuple[int, ...]
    interpolation: str
    resize_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill_color: int = 0

    def __post_init__(self) -> None:
        known = {"interpolation": tuple(INTERPOLATIONS), "resize_mode": RESIZE_MODES}
        for name, choices in known.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(choices)}")
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 x 1 pixel, not {self.size}")

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any]) -> "PixelSpec":
        """Return the preprocessing in `model.visual.preprocess_cfg` of an open_clip model.

        Like open_clip, accepts one number for both sides or all channels, and reads the
        interpolation `random` (of training) as bicubic.
        """
        interpolation = preprocess_cfg["interpolation"]
        return cls(
            size=_repeated(preprocess_cfg["size"], 2),
            interpolation="bicubic" if interpolation == "random" else interpolation,
            resize_mode=preprocess_cfg["resize_mode"],
            mean=_repeated(preprocess_cfg["mean"], 3),
            std=_repeated(preprocess_cfg["std"], 3),
            fill_color=int(preprocess_cfg["fill_color"]),
        )

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) to which a picture is resized before it is cropped or filled."""
        to_height, to_width = self.size
        if self.resize_mode == "squash":
            return to_width, to_height
        if self.resize_mode == "shortest" and to_height == to_width:
            # Only this mode rounds down.
            short = min(width, height)
            return int(to_width * width / short), int(to_width * height / short)
        ratios = height / to_height, width / to_width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        # open_clip fails where a side would be rounded to zero; here it becomes one pixel.
        return max(1, round(width / ratio)), max(1, round(height / ratio))


def as_colour(image: Image.Image) -> Image.Image:
    """Return `image` in mode RGB, L or CMYK; images in those modes are returned unchanged.

    - Transparent parts are blended over white, the usual background of covers in catalogues. The
      colour stored for them (often black) is not meant to be seen. An opaque picture is not
      changed.
    - 16-bit grey keeps its upper 8 bits, as Pillow does with 16-bit colour; its own conversion of
      grey would clip everything above 255 to white.
    - For 32-bit integers and floating-point numbers no value is defined as white: white is the
      smallest of 1, 255 and 65,535 that no value exceeds. If there is none, or if a value is
      negative, the smallest value becomes black and the largest white.
    - Palette pictures become colour, and two-level pictures grey: resized as they are, they would
      consist of single pixels instead of averages.

    Raises `ValueError` if a value is not finite.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _scaled(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGB", image.size, "white")
        background.paste(image, mask=image.getchannel("A"))
        return background
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def fitted(
    picture: Image.Image,
    box: tuple[float, float, float, float],
    resized: tuple[int, int],
    spec: PixelSpec,
) -> np.ndarray:
    """Return the picture at the model's size, `(H, W, 3) uint8`.

    Like open_clip, converts to RGB after resizing. For CMYK the order makes a difference.

    Parameters
    ----------
    picture
        In mode RGB, L or CMYK.
    box
        The part (left, top, right, bottom) of `picture` to show.
    resized
        The (width, height) of that part before cropping or filling.
    spec
        The model's preprocessing.
    """
    to_height, to_width = spec.size
    # For "shortest" with a size that is not square, open_clip always uses bicubic.
    always_bicubic = spec.resize_mode == "shortest" and to_height != to_width
    resampling = INTERPOLATIONS["bicubic" if always_bicubic else spec.interpolation]
    picture = picture.resize(resized, resampling, box=box).convert("RGB")
    width, height = resized
    if width < to_width or height < to_height:
        size = max(width, to_width), max(height, to_height)
        canvas = Image.new("RGB", size, (spec.fill_color,) * 3)
        canvas.paste(picture, (max(0, to_width - width) // 2, max(0, to_height - height) // 2))
        picture, (width, height) = canvas, canvas.size
    left, top = round((width - to_width) / 2), round((height - to_height) / 2)
    # A copy, as torch needs writable memory.
    return np.array(picture.crop((left, top, left + to_width, top + to_height)))


def normalised(pixels_BHWC: torch.Tensor, spec: PixelSpec) -> torch.Tensor:
    """Return `(B, 3, H, W) float32` in channels-last memory format, on the device of the input.

    `pixels_BHWC` is `(B, H, W, 3) uint8`. On the CPU the result equals open_clip's bit for bit.
    Raises `ValueError` for another shape or dtype.
    """
    if pixels_BHWC.dtype != torch.uint8 or pixels_BHWC.ndim != 4 or pixels_BHWC.shape[3] != 3:
        raise ValueError(
            f"expected pixels (B, H, W, 3) uint8, not {tuple(pixels_BHWC.shape)} "
            f"{pixels_BHWC.dtype}. Fix: stack the arrays that decode returns"
        )
    pixels_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(
        torch.float32, memory_format=torch.channels_last
    )
    mean = torch.tensor(spec.mean, device=pixels_BHWC.device)[:, None, None]
    std = torch.tensor(spec.std, device=pixels_BHWC.device)[:, None, None]
    return pixels_BCHW.div_(255).sub_(mean).div_(std)


def _scaled(values_HW: np.ndarray) -> Image.Image:
    """Return numbers of any range as grey levels 0 to 255; see `as_colour`."""
    black, white = float(values_HW.min()), float(values_HW.max())
    if not np.isfinite([black, white]).all():
        raise ValueError("a value is not finite")
    if black >= 0 and white <= max(_WHITES):
        black, white = 0.0, float(next(level for level in _WHITES if white <= level))
    scale = 255 / ((white - black) or 1.0)
    levels = values_HW.astype(np.float32) * np.float32(scale) - np.float32(black * scale)
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _repeated(values: Any, count: int) -> tuple[Any, ...]:
    """Return `values` as a tuple; a single number is repeated `count` times."""
    return tuple(np.broadcast_to(values, count).tolist())

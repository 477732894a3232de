"""A colour picture becomes the pixels that a model was trained on, to the bit as in open_clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class PixelSpec:
    """How a model wants its pictures: open_clip's inference preprocessing as a value.

    `size` is (height, width) in pixels. `resize_mode` says what is brought to that size: the
    shortest side (what hangs over is cut off), the longest (what is missing is filled with
    `fill_color`, 0 to 255) or both (`squash`). `mean` and `std` are per channel, on the scale
    where white is 1. Raises `ValueError` for a value that open_clip does not know.
    """

    size: tuple[int, int]
    interpolation: str
    resize_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill_color: int = 0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"unknown interpolation {self.interpolation!r}; known: {', '.join(INTERPOLATIONS)}"
            )
        if self.resize_mode not in RESIZE_MODES:
            raise ValueError(
                f"unknown resize_mode {self.resize_mode!r}; known: {', '.join(RESIZE_MODES)}"
            )
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 x 1 pixel, not {self.size}")

    @classmethod
    def from_open_clip(cls, preprocess_cfg: Mapping[str, Any]) -> "PixelSpec":
        """Return what `model.visual.preprocess_cfg` of an open_clip model says.

        Like open_clip, takes one number for both sides or all channels, and reads the
        interpolation `random` (of training) as bicubic.
        """
        size, interpolation = preprocess_cfg["size"], preprocess_cfg["interpolation"]
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            size=(int(height), int(width)),
            interpolation="bicubic" if interpolation == "random" else interpolation,
            resize_mode=preprocess_cfg["resize_mode"],
            mean=_per_channel(preprocess_cfg["mean"]),
            std=_per_channel(preprocess_cfg["std"]),
            fill_color=int(preprocess_cfg["fill_color"]),
        )

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) that a picture is resized to before it is cropped or filled."""
        to_height, to_width = self.size
        if self.resize_mode == "squash":
            return to_width, to_height
        if self.resize_mode == "shortest" and to_height == to_width:
            # Of the three only this one rounds down.
            short = to_width
            if width <= height:
                return short, int(short * height / width)
            return int(short * width / height), short
        ratios = height / to_height, width / to_width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        # open_clip gives up where a side comes to zero; one row of pixels is closer to the picture.
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    @property
    def resampling(self) -> Image.Resampling:
        """The filter; open_clip has bicubic, whatever is asked, for shortest and no square."""
        if self.resize_mode == "shortest" and self.size[0] != self.size[1]:
            return Image.Resampling.BICUBIC
        return INTERPOLATIONS[self.interpolation]


def fitted(
    picture: Image.Image,
    box: tuple[float, float, float, float],
    resized: tuple[int, int],
    spec: PixelSpec,
) -> np.ndarray:
    """Return the picture at the model's size, `(H, W, 3) uint8`.

    `box` (left, top, right, bottom) is the part of `picture` (mode RGB, L or CMYK) to show, and
    `resized` (width, height) its size before cropping or filling. Like open_clip, converts to RGB
    only after resizing, which for CMYK is not the same as before.
    """
    picture = picture.resize(resized, spec.resampling, box=box).convert("RGB")
    to_height, to_width = spec.size
    width, height = resized
    if width < to_width or height < to_height:
        fill = (spec.fill_color, spec.fill_color, spec.fill_color)
        canvas = Image.new("RGB", (max(width, to_width), max(height, to_height)), fill)
        canvas.paste(picture, (max(0, to_width - width) // 2, max(0, to_height - height) // 2))
        picture, (width, height) = canvas, canvas.size
    left, top = round((width - to_width) / 2), round((height - to_height) / 2)
    # A copy, since torch wants to be able to write to what it wraps.
    return np.array(picture.crop((left, top, left + to_width, top + to_height)))


def normalised(pixels_BHWC: torch.Tensor, spec: PixelSpec) -> torch.Tensor:
    """Return `(B, 3, H, W) float32` in channels-last memory format, on the device of the input.

    `pixels_BHWC` is `(B, H, W, 3) uint8`. On the processor equal to open_clip's own to the bit.
    Raises `ValueError` for another shape or dtype.
    """
    if pixels_BHWC.dtype != torch.uint8 or pixels_BHWC.ndim != 4 or pixels_BHWC.shape[3] != 3:
        raise ValueError(
            f"expected pixels (B, H, W, 3) uint8, not {tuple(pixels_BHWC.shape)} "
            f"{pixels_BHWC.dtype}. Fix: stack what decode returns"
        )
    pixels_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(
        torch.float32, memory_format=torch.channels_last
    )
    mean = torch.tensor(spec.mean, device=pixels_BHWC.device)[:, None, None]
    std = torch.tensor(spec.std, device=pixels_BHWC.device)[:, None, None]
    return pixels_BCHW.div_(255).sub_(mean).div_(std)


def _per_channel(values: Any) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        return float(values), float(values), float(values)
    red, green, blue = values
    return float(red), float(green), float(blue)

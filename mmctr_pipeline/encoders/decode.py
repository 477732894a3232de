"""Reading one image file, or saying in a few words why it cannot be read."""

import errno
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

Preprocess = Callable[[Image.Image], torch.Tensor]
"""From an opened image to pixels `(3, H, W) float32`, as open_clip makes it for a model."""

# Pillow's own limit, kept here so that it holds wherever another library has lifted Pillow's.
MAX_PIXELS = 89_478_485

# What Pillow's decoders let out for a damaged file, besides OSError.
_DAMAGED = (SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError, IndexError)


class UnreadableImageError(ValueError):
    """The file is no image that can be used; `reason` is one of a few fixed phrases."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_image(path: Path, preprocess: Preprocess) -> torch.Tensor:
    """Return the preprocessed pixels; a bad file raises `UnreadableImageError` and nothing else.

    The size is taken from the header before anything is decoded.
    """
    try:
        if path.is_dir():
            raise UnreadableImageError(path, "a folder, not a file")
        if path.stat().st_size == 0:
            raise UnreadableImageError(path, "empty file")
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(path, "too many pixels")
            return preprocess(image)
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "not an image") from error
    except OSError as error:
        raise UnreadableImageError(path, _reason(error)) from error
    except _DAMAGED as error:
        raise UnreadableImageError(path, "damaged") from error


def _reason(error: OSError) -> str:
    """Return why the system or a decoder could not go on (Pillow's own errors have no errno)."""
    if error.errno == errno.ENOENT:
        return "a link to nothing"
    if error.errno == errno.ELOOP:
        return "a link in a circle"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read"
    if error.errno is not None:
        return f"cannot be read: {errno.errorcode.get(error.errno, error.errno)}"
    return "truncated" if "truncated" in str(error).lower() else "damaged"

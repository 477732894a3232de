"""Reading one image file, or saying in a few words why it cannot be read."""

import contextlib
import errno
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mmctr_pipeline.encoders.image.colours import as_colour
from mmctr_pipeline.encoders.image.formats import cut_short, picture_format
from mmctr_pipeline.encoders.image.pixels import PixelSpec, fitted

# Pillow's own limit, kept here so that it holds wherever another library has lifted Pillow's.
MAX_PIXELS = 89_478_485

# Three bytes for each of so many pixels: no honest file is larger.
MAX_BYTES = 3 * MAX_PIXELS

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where this many times the model's size remains.
OVERSAMPLING = 2

# Opened by these classes, not by Image.open, which tries other formats too, counts pixels only
# after opening and warns of each file above its limit.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}

# How to set a picture upright, by its EXIF orientation; from 5 on, width and height change places.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LEFT_WAS_FAR_END = (2, 3, 6, 7)
_TOP_WAS_FAR_END = (3, 4, 7, 8)


class UnreadableImageError(ValueError):
    """The file is no image that can be used; `reason` is one of a few fixed phrases."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def read_bytes(path: Path) -> bytes:
    """Return what the file holds, at least one byte; raises `UnreadableImageError`.

    Only regular files are opened: a pipe or a device could wait for ever.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImageError(path, "a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImageError(path, "not a regular file")
        if status.st_size == 0:
            raise UnreadableImageError(path, "empty file")
        if status.st_size > MAX_BYTES:
            raise UnreadableImageError(path, "too large a file")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(path, _system_reason(error)) from error


def decode(content: bytes, spec: PixelSpec, path: Path) -> np.ndarray:
    """Return the picture as a model wants it before normalisation, `(H, W, 3) uint8`.

    Equal to the bit to what open_clip makes of the file, but for three things:

    - An EXIF orientation is applied first (open_clip ignores it), as by `ImageOps.exif_transpose`.
    - A JPEG of at least `2 * OVERSAMPLING` times the model's size is decoded at 1/2, 1/4 or 1/8 of
      its own, which is faster. The mean absolute error is below 1 of 255 levels on photographs,
      below 2 on finer textures with grain.
    - Transparency, palettes and more than 8 bits: see `as_colour`.

    Of an animation the first picture counts. `path` only names the file in the error. Damaged
    content raises `UnreadableImageError` and nothing else; format and size are taken from the
    header before anything is decoded. May be called from several threads at once.
    """
    with _saying_why(content, path):
        image = _opened(content, path)
        width, height = image.size
        covered = _scale_down(image, spec)
        image.load()
        orientation = _orientation(image)
        picture = as_colour(image)
    if covered is None:
        # Only now: TIFF turns itself upright while it loads.
        width, height = picture.size
        covered = picture.size
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    if orientation >= 5:
        width, height = height, width
        covered = covered[1], covered[0]
    resized = spec.resized(width, height)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise UnreadableImageError(path, "too long and narrow")
    # Where a size is no multiple of the scale, the last column and row show less than the others.
    left = picture.width - covered[0] if orientation in _LEFT_WAS_FAR_END else 0
    top = picture.height - covered[1] if orientation in _TOP_WAS_FAR_END else 0
    box = (left, top, left + covered[0], top + covered[1])
    return fitted(picture, box, resized, spec)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings (of corrupt metadata, above all) to itself, in all threads.

    For whoever starts the threads that decode: Python's warning filters belong to the process, so
    that a thread that changed them for itself would change them under the others.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


@contextlib.contextmanager
def _saying_why(content: bytes, path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises into `UnreadableImageError`."""
    try:
        yield
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, "too many pixels") from error
    except MemoryError:
        # No fault of the file, which would be remembered as unreadable.
        raise
    except Exception as error:
        # Decoders fed with damaged bytes let out almost any exception, and one bad file among
        # thousands must not end the others; the reason is counted and listed by the caller.
        name = picture_format(content) or ""
        truncated = "truncated" in str(error).lower() or cut_short(content, name)
        raise UnreadableImageError(path, "truncated" if truncated else "damaged") from error


def _opened(content: bytes, path: Path) -> ImageFile.ImageFile:
    """Return the picture with its header read and nothing decoded."""
    name = picture_format(content)
    if name is None:
        raise UnreadableImageError(path, "not an image")
    if name not in _READERS:
        raise UnreadableImageError(path, f"format not supported: {name}")
    image = _READERS[name](io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(path, "too many pixels")
    return image


def _scale_down(image: ImageFile.ImageFile, spec: PixelSpec) -> tuple[float, float] | None:
    """Have a large JPEG decoded at a fraction of its size.

    Returns the size (width, height) that the picture covers of what will be loaded, in fractions of
    a pixel, or None for other formats.
    """
    if not isinstance(image, JpegImageFile):
        return None
    turned = _orientation(image) >= 5
    width, height = spec.resized(*(image.size[::-1] if turned else image.size))
    if turned:
        width, height = height, width
    drafted = image.draft(None, (OVERSAMPLING * width, OVERSAMPLING * height))
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:
        # The picture may be sound beside any damage to what is said about it.
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _system_reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "a link to nothing"
    if error.errno == errno.ELOOP:
        return "a link in a circle"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read"
    return f"cannot be read: {errno.errorcode.get(error.errno or 0, error.errno)}"

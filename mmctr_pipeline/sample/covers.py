"""Draw cover images, which mostly show the style of an item and sometimes its category."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.sample.catalogue import CATEGORIES, Catalogue, Stream, generator
from mmctr_pipeline.sample.config import SampleConfig

logger = logging.getLogger(__name__)

_SIZES = ((128, 96), (96, 128), (112, 112), (128, 72), (96, 144))
_QUALITY = 85
# Share of covers with the shape of their category; the others have a random shape.
_CATEGORY_SHAPE_SHARE = 0.4

_HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"


def write_covers(folder: Path, catalogue: Catalogue, config: SampleConfig) -> dict[str, Any]:
    """Write `{item_id}.jpg` for most items into `folder`.

    Some items get no file, and some a file that cannot be decoded: truncated, empty, or a web page.
    Returns `n_images` (readable files), `missing_image_ids` and `corrupt_image_ids`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing, corrupt = _damaged_ids(catalogue, config)
    progress = Progress(logger, "item_images", len(catalogue) - len(missing), "covers")
    damage = {item_id: kind for kind, item_id in enumerate(corrupt.tolist())}
    for item_id in np.setdiff1d(catalogue.item_id, missing).tolist():
        row = item_id - catalogue.first_id
        category, style = catalogue.category[row], catalogue.style[row]
        rng = generator(config.seed, Stream.COVERS, item_id)
        content = draw_cover(int(category), int(style), rng)
        if item_id in damage:
            content = (content[: len(content) // 3], b"", _HTML)[damage[item_id] % 3]
        (folder / f"{item_id}.jpg").write_bytes(content)
        progress.advance()
    return {
        "n_images": len(catalogue) - len(missing) - len(corrupt),
        "missing_image_ids": missing.tolist(),
        "corrupt_image_ids": corrupt.tolist(),
    }


def draw_cover(category: int, style: int, rng: np.random.Generator) -> bytes:
    """Return the JPEG file of one cover, 72 to 144 pixels per side."""
    width, height = _SIZES[rng.integers(len(_SIZES))]
    canvas = _Canvas(width, height, rng)
    pixels = _PAINTERS[style](canvas)
    shape = category if rng.random() < _CATEGORY_SHAPE_SHARE else int(rng.integers(len(CATEGORIES)))
    pixels = canvas.with_shape(pixels, shape)
    pixels += rng.normal(0.0, 4.0, size=(height, width, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=_QUALITY)
    return file.getvalue()


class _Canvas:
    """Coordinates and random numbers for one cover; colours are float32 in 0..255."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.width, self.height = width, height
        self.x = np.arange(width, dtype=np.float32)[None, :] / height
        self.y = np.arange(height, dtype=np.float32)[:, None] / height

    def colour(self, *options: tuple[int, int, int], jitter: float = 18.0) -> np.ndarray:
        """Return one of `options`, chosen at random and slightly varied, `(3,)`."""
        chosen = np.array(options[self.rng.integers(len(options))], dtype=np.float32)
        return chosen + self.rng.normal(0.0, jitter, size=3).astype(np.float32)

    def uniform(self, low: float, high: float) -> float:
        """Return a random number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def blend(self, mask: np.ndarray, back: np.ndarray, front: np.ndarray) -> np.ndarray:
        """Return `front` where the `(H, W)` mask is 1, `back` where it is 0, else a mixture."""
        return back + mask[..., None].astype(np.float32) * (front - back)

    def with_shape(self, pixels: np.ndarray, shape: int) -> np.ndarray:
        """Draw one shape with random position, size and colour."""
        size = self.uniform(0.12, 0.24)
        x = self.x - self.uniform(0.25, 0.75) * self.width / self.height
        y = self.y - self.uniform(0.25, 0.75)
        mask = _SHAPES[shape](x / size, y / size)
        return self.blend(0.75 * mask, pixels, self.colour((235, 235, 235), (30, 30, 30)))


def _neon(canvas: _Canvas) -> np.ndarray:
    """Paint glowing spots on near-black."""
    pixels = np.zeros((canvas.height, canvas.width, 3), np.float32) + canvas.colour(
        (18, 8, 40), (6, 10, 30), jitter=5.0
    )
    for _ in range(canvas.rng.integers(3, 6)):
        x = canvas.x - canvas.uniform(0.0, 1.2)
        y = canvas.y - canvas.uniform(0.0, 1.0)
        glow = np.exp(-(x**2 + y**2) / canvas.uniform(0.005, 0.04))
        pixels += glow[..., None] * canvas.colour((255, 30, 200), (30, 240, 255), (150, 60, 255))
    return pixels


def _pastel(canvas: _Canvas) -> np.ndarray:
    """Paint a smooth gradient of two light colours."""
    soft = ((255, 214, 224), (214, 236, 255), (226, 255, 220), (255, 244, 206), (234, 220, 255))
    angle = canvas.uniform(0.0, 2 * np.pi)
    ramp = np.cos(angle) * canvas.x + np.sin(angle) * canvas.y
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    return canvas.blend(ramp, canvas.colour(*soft, jitter=8.0), canvas.colour(*soft, jitter=8.0))


def _comic(canvas: _Canvas) -> np.ndarray:
    """Paint printed dots in one bright primary colour on another."""
    pitch = canvas.uniform(0.07, 0.13)
    phase = canvas.uniform(0.0, 1.0)
    x = (canvas.x / pitch + phase) % 1.0 - 0.5
    y = (canvas.y / pitch + phase) % 1.0 - 0.5
    mask = x**2 + y**2 < canvas.uniform(0.05, 0.12)
    back = canvas.colour((250, 220, 30), (240, 240, 240))
    return canvas.blend(mask, back, canvas.colour((225, 30, 40), (30, 80, 220)))


def _retro(canvas: _Canvas) -> np.ndarray:
    """Paint slanted stripes in brown, orange and cream."""
    slant = canvas.uniform(0.3, 1.2) * canvas.rng.choice([-1.0, 1.0])
    band = np.floor((canvas.x * slant + canvas.y) / canvas.uniform(0.08, 0.16)).astype(np.int64)
    colours = np.stack(
        [
            canvas.colour((120, 66, 30), (92, 58, 40)),
            canvas.colour((214, 120, 40), (200, 92, 44)),
            canvas.colour((236, 214, 170), (222, 190, 130)),
        ]
    )
    return colours[band % 3]


def _noir(canvas: _Canvas) -> np.ndarray:
    """Paint coarse grey grain, darker towards the edges."""
    centre = canvas.width / canvas.height / 2
    distance = (canvas.x - centre) ** 2 + (canvas.y - 0.5) ** 2
    light = canvas.uniform(110, 170) * np.exp(-distance / canvas.uniform(0.12, 0.3))
    grain = canvas.rng.normal(0.0, 24.0, size=light.shape).astype(np.float32)
    return np.repeat((light + grain + 20.0)[..., None], 3, axis=2).astype(np.float32)


def _mosaic(canvas: _Canvas) -> np.ndarray:
    """Paint square tiles of random green, teal and blue."""
    tile = int(canvas.rng.integers(8, 17))
    shape = (-(-canvas.height // tile), -(-canvas.width // tile), 3)
    low, high = np.array([10, 60, 50]), np.array([90, 180, 170])
    tiles = canvas.rng.uniform(low, high, size=shape).astype(np.float32)
    large = tiles.repeat(tile, axis=0).repeat(tile, axis=1)
    return large[: canvas.height, : canvas.width]


# One painter per style, in the order of STYLES.
_PAINTERS = (_neon, _pastel, _comic, _retro, _noir, _mosaic)

# One shape per category, in the order of CATEGORIES. Each function returns which points are in the
# shape; x and y are measured from its centre, in units of its size.
_SHAPES = (
    lambda x, y: x**2 + y**2 < 1.0,
    lambda x, y: (np.abs(x) < 0.9) & (np.abs(y) < 0.9),
    lambda x, y: (y < 0.8) & (np.abs(x) < (y + 1.0) / 1.8),
    lambda x, y: np.abs(x) + np.abs(y) < 1.1,
    lambda x, y: (
        ((np.abs(x) < 0.35) & (np.abs(y) < 1.0)) | ((np.abs(y) < 0.35) & (np.abs(x) < 1.0))
    ),
    lambda x, y: np.abs(np.sqrt(x**2 + y**2) - 0.8) < 0.22,
)


def _damaged_ids(catalogue: Catalogue, config: SampleConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of items without a file, and of those with a corrupt one, ascending."""
    rng = generator(config.seed, Stream.DAMAGE, catalogue.part)
    chosen = rng.permutation(len(catalogue)) + catalogue.first_id
    n_damaged = len(catalogue) * np.array([config.missing_image_share, config.corrupt_image_share])
    if catalogue.part:
        # The few new items of a day would never have a damaged image if this were rounded.
        n_damaged = np.floor(n_damaged + rng.random(2))
    n_missing, n_corrupt = (round(number) for number in n_damaged.tolist())
    return np.sort(chosen[:n_missing]), np.sort(chosen[n_missing : n_missing + n_corrupt])

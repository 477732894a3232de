"""The vector columns that come with the data: noisy views of category and style."""

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Catalogue
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.streams import Stream, generator

TEXT_DIM, IMAGE_DIM, ITEM_DIM = 768, 1_024, 128

# Dimensions and size of what distinguishes items of one kind, and size of the pure noise.
_DETAIL_DIM, _DETAIL_SIZE, _NOISE_SIZE = 16, 0.35, 0.25


class GivenVectors:
    """Views of a catalogue: text of the category, image of the style, item of both.

    Rows are drawn in order, slice by slice, so that no more than one slice is in memory.
    """

    def __init__(self, catalogue: Catalogue, config: SampleConfig) -> None:
        self._catalogue = catalogue
        self._text = _View(config.seed, 0, len(CATEGORIES), TEXT_DIM)
        self._image = _View(config.seed, 1, len(STYLES), IMAGE_DIM)
        self._item = _View(config.seed, 2, len(CATEGORIES) + len(STYLES), ITEM_DIM)

    def text_and_image(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return `(n, 768)` and `(n, 1024)` float32 for the next slice of items."""
        return self._text.next(self._category(rows)), self._image.next(self._style(rows))

    def item(self, rows: slice) -> np.ndarray:
        """Return `(n, 128)` float32 for the next slice of items."""
        return self._item.next(np.concatenate([self._category(rows), self._style(rows)], axis=1))

    def _category(self, rows: slice) -> np.ndarray:
        return np.eye(len(CATEGORIES), dtype=np.float32)[self._catalogue.category[rows]]

    def _style(self, rows: slice) -> np.ndarray:
        return np.eye(len(STYLES), dtype=np.float32)[self._catalogue.style[rows]]


class _View:
    """One imitated encoder: what kind an item is, its own details, and noise."""

    def __init__(self, seed: int, which: int, n_kinds: int, dim: int) -> None:
        # The basis belongs to the encoder: the same in worlds of every seed.
        rng = np.random.Generator(np.random.PCG64(which))
        self._basis = rng.standard_normal((n_kinds + _DETAIL_DIM, dim), dtype=np.float32)
        self._basis /= np.sqrt(np.float32(dim))
        self._detail_rng = generator(seed, Stream.VECTORS, 2 * which)
        self._noise_rng = generator(seed, Stream.VECTORS, 2 * which + 1)

    def next(self, kind_NK: np.ndarray) -> np.ndarray:
        """Return the vectors of the next N items, `(N, dim) float32`."""
        n, dim = len(kind_NK), self._basis.shape[1]
        detail = self._detail_rng.standard_normal((n, _DETAIL_DIM), dtype=np.float32)
        parts = np.concatenate([kind_NK, np.float32(_DETAIL_SIZE) * detail], axis=1)
        vectors = self._noise_rng.standard_normal((n, dim), dtype=np.float32)
        vectors *= np.float32(_NOISE_SIZE / np.sqrt(dim))
        # Not a matrix product: sums in fixed order give the same bytes for any number of threads.
        for column in range(parts.shape[1]):
            vectors += parts[:, column, None] * self._basis[column]
        return vectors

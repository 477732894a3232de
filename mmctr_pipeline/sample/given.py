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
        self._text_rng = generator(config.seed, Stream.VECTORS, 0)
        self._image_rng = generator(config.seed, Stream.VECTORS, 1)
        self._item_rng = generator(config.seed, Stream.VECTORS, 2)
        # The bases belong to the encoder that is imitated: the same in worlds of every seed.
        self._text_basis = _basis(0, len(CATEGORIES), TEXT_DIM)
        self._image_basis = _basis(1, len(STYLES), IMAGE_DIM)
        self._item_basis = _basis(2, len(CATEGORIES) + len(STYLES), ITEM_DIM)

    def text_and_image(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return `(n, 768)` and `(n, 1024)` float32 for the next slice of items."""
        category = np.eye(len(CATEGORIES), dtype=np.float32)[self._catalogue.category[rows]]
        style = np.eye(len(STYLES), dtype=np.float32)[self._catalogue.style[rows]]
        return (
            _view(category, self._text_basis, self._text_rng),
            _view(style, self._image_basis, self._image_rng),
        )

    def item(self, rows: slice) -> np.ndarray:
        """Return `(n, 128)` float32 for the next slice of items."""
        category = np.eye(len(CATEGORIES), dtype=np.float32)[self._catalogue.category[rows]]
        style = np.eye(len(STYLES), dtype=np.float32)[self._catalogue.style[rows]]
        return _view(np.concatenate([category, style], axis=1), self._item_basis, self._item_rng)


def _basis(which: int, n_kinds: int, dim: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(which))
    rows = rng.standard_normal((n_kinds + _DETAIL_DIM, dim), dtype=np.float32)
    return rows / np.sqrt(np.float32(dim))


def _view(kind: np.ndarray, basis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n, dim = len(kind), basis.shape[1]
    detail = _DETAIL_SIZE * rng.standard_normal((n, _DETAIL_DIM), dtype=np.float32)
    noise = rng.standard_normal((n, dim), dtype=np.float32)
    noise *= np.float32(_NOISE_SIZE / np.sqrt(dim))
    # einsum without BLAS: a sum in fixed order gives the same bytes for any number of threads.
    kinds = np.concatenate([kind, detail], axis=1)
    for column in range(kinds.shape[1]):
        noise += kinds[:, column, None] * basis[column]
    return noise

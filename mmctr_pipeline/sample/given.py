"""Vectors that imitate those of the real data: they show category and style, with noise."""

from typing import Literal

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Catalogue, Stream, generator

_VIEWS = {"text": (0, 768), "image": (1, 1_024), "item": (2, 128)}
"""Number and dimension of each view."""

# Items of one kind differ in details (`_DETAIL_DIM` numbers of standard deviation `_DETAIL_SIZE`)
# and in noise (a vector of about the length `_NOISE_SIZE`).
_DETAIL_DIM, _DETAIL_SIZE, _NOISE_SIZE = 16, 0.35, 0.25


class GivenVectors:
    """Imitates an encoder: text vectors show the category, image vectors the style, "item" both.

    A vector is the sum of three parts: the kind of the item, its details, and noise. Vectors are
    drawn in item order, so only one slice at a time is in memory.
    """

    def __init__(
        self, catalogue: Catalogue, seed: int, view: Literal["text", "image", "item"]
    ) -> None:
        number, self.dim = _VIEWS[view]
        category = np.eye(len(CATEGORIES), dtype=np.float32)[catalogue.category]
        style = np.eye(len(STYLES), dtype=np.float32)[catalogue.style]
        kinds = {"text": [category], "image": [style], "item": [category, style]}
        self._kind_MK = np.concatenate(kinds[view], axis=1)
        # The basis belongs to the encoder: it is the same for datasets of all seeds.
        rng = np.random.Generator(np.random.PCG64(number))
        n_rows = self._kind_MK.shape[1] + _DETAIL_DIM
        self._basis = rng.standard_normal((n_rows, self.dim), dtype=np.float32)
        self._basis /= np.sqrt(np.float32(self.dim))
        first = 2 * len(_VIEWS) * catalogue.part + 2 * number
        self._detail_rng = generator(seed, Stream.VECTORS, first)
        self._noise_rng = generator(seed, Stream.VECTORS, first + 1)

    def next(self, rows: slice) -> np.ndarray:
        """Return the vectors of the next items, `(N, dim) float32`.

        `rows` must begin where the rows of the last call ended.
        """
        kind_NK = self._kind_MK[rows]
        n = len(kind_NK)
        detail = self._detail_rng.standard_normal((n, _DETAIL_DIM), dtype=np.float32)
        parts = np.concatenate([kind_NK, np.float32(_DETAIL_SIZE) * detail], axis=1)
        vectors = self._noise_rng.standard_normal((n, self.dim), dtype=np.float32)
        vectors *= np.float32(_NOISE_SIZE / np.sqrt(self.dim))
        # Unlike a matrix product, this adds up in a fixed order, whatever the number of threads, so
        # the bytes are always equal.
        for column in range(parts.shape[1]):
            vectors += parts[:, column, None] * self._basis[column]
        return vectors

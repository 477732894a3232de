"""Text and image vectors of the same items, read side by side as one matrix."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from mmctr_pipeline.data.ids import with_padding
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.errors import FusionError

_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class Modalities:
    """The modalities in use (`text`, `image`, in this order) of the same N items.

    `tables` holds one table of N rows for each modality. With `unit`, each vector is scaled to
    length 1 when it is read.
    """

    tables: dict[str, VectorTable]
    unit: bool = False

    @property
    def dims(self) -> list[int]:
        """Number of columns of each modality."""
        return [table.dim for table in self.tables.values()]

    @functools.cached_property
    def present(self) -> np.ndarray:
        """Which item has which modality, `(N, M) bool`."""
        return np.stack([table.present for table in self.tables.values()], axis=1)

    @property
    def n_items(self) -> int:
        """Number of items that have at least one modality."""
        return int(self.present.any(axis=1).sum())

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows of the items that have at least one modality, a block at a time."""
        yield from row_blocks(np.any(self.present, axis=1))

    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return vectors of one modality for `rows` that have it, `(B, D_m) float64`.

        Raises `FusionError`, naming an item, if a vector is not finite.
        """
        table = self.tables[name]
        vectors = table.vectors[rows].astype(np.float64)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise FusionError(
                f"{int((~finite).sum())} of {len(rows)} vectors of {table.identity} are not "
                f"finite; the first is that of item {table.item_id[rows[np.argmin(finite)]]}: "
                f"materialise {name}_embeddings again"
            )
        if self.unit:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, length, out=vectors, where=length > 0)
        return vectors

    def concatenated(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of `rows` side by side, `(B, D) float64`, and where they are present.

        Columns of a missing modality are 0 in the vectors and False in the mask `(B, D) bool`.
        Raises `FusionError` as `vectors` does.
        """
        matrix = np.zeros((len(rows), sum(self.dims)))
        parts = np.split(matrix, np.cumsum(self.dims)[:-1], axis=1)
        for (name, table), part in zip(self.tables.items(), parts, strict=True):
            has = table.present[rows]
            part[has] = self.vectors(name, rows[has])
        return matrix, np.repeat(self.present[rows], self.dims, axis=1)

    def sums_of_squares(self, matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the sum of squares by modality, `(M,)`, over the rows of `matrix` that have it."""
        parts = np.split(matrix, np.cumsum(self.dims)[:-1], axis=1)
        squares = np.stack([np.einsum("bd,bd->b", part, part) for part in parts], axis=1)
        return (squares * self.present[rows]).sum(axis=0)


def row_blocks(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of the rows where `mask` is True, in blocks of at most 8,192.

    A float64 copy of a block takes 92 MB with the 1,408 columns of the default encoders.
    """
    rows = np.flatnonzero(mask)
    return (rows[begin : begin + _BLOCK_ROWS] for begin in range(0, len(rows), _BLOCK_ROWS))


def modalities_in_use(text: VectorTable, image: VectorTable, unit: bool = False) -> Modalities:
    """Return the modalities that at least one item has, to fit a fusion on.

    Raises `FusionError` as `require_same_items` does, and if no item has any modality.
    """
    require_same_items(text, image)
    tables = {"text": text, "image": image}
    used = {name: table for name, table in tables.items() if table.present.any()}
    if not used:
        raise FusionError(
            "no item has a text or an image vector: check the titles in item_feature and "
            "the image folder, or materialise text_embeddings and image_embeddings again"
        )
    return Modalities(used, unit)


def require_same_items(text: VectorTable, image: VectorTable) -> None:
    """Raise `FusionError` unless both tables have the same items and none is the padding item."""
    if np.array_equal(text.item_id, image.item_id):
        if len(text.item_id) and text.item_id[0] == with_padding(text.item_id)[0]:
            raise FusionError(f"item {text.item_id[0]!r} is the padding row and cannot be fused")
        return
    only_text = np.setdiff1d(text.item_id, image.item_id)
    only_image = np.setdiff1d(image.item_id, text.item_id)
    raise FusionError(
        f"text and image vectors have different items: {len(only_text):,} only in text "
        f"(such as {only_text[:3].tolist()}), {len(only_image):,} only in image "
        f"(such as {only_image[:3].tolist()}); materialise the older of the two again"
    )

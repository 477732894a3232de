"""Fusion by principal components of the concatenated text and image vectors (recipe A)."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.decomposition import PCA

from mmctr_pipeline.data.atomic import atomic_write
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import FusionConfig

_FORMAT = 1
# Rows per block: keeps the float64 working copy of a block near 90 MB at 1,408 columns.
_BLOCK_ROWS = 8192


@dataclasses.dataclass(frozen=True)
class PcaTransform:
    """A fitted PCA of the concatenation of text and image vectors.

    `mean` is `(D,) float64`, `components` `(K, D) float64` with orthonormal rows, each signed so
    that its entry of largest magnitude is positive, `explained_variance_ratio` `(K,) float64`,
    the share of the whole variance that each keeps. `text_dim + image_dim == D`; a modality that
    no item has takes no part and has dimension 0. `identity` hashes all of this together with
    the identities of the vectors it was fitted on.
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance_ratio: np.ndarray
    text_dim: int
    image_dim: int
    input: str
    text_identity: str
    image_identity: str
    n_fitted_items: int

    @property
    def dim(self) -> int:
        """Dimensions of the fused vectors, K."""
        return len(self.components)

    @property
    def identity(self) -> str:
        """Name and content hash; equal for equal transforms of equal inputs alone."""
        digest = hashlib.sha256(json.dumps(self._scalars(), sort_keys=True).encode())
        for array in (self.mean, self.components, self.explained_variance_ratio):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return f"pca{self.dim}-{self.input}:{digest.hexdigest()[:12]}"

    def _scalars(self) -> dict[str, Any]:
        names = ("text_dim", "image_dim", "input", "text_identity", "image_identity")
        return {name: getattr(self, name) for name in (*names, "n_fitted_items")}

    def transform(self, text: VectorTable, image: VectorTable) -> VectorTable:
        """Return the fused vectors of the padding row 0 and of all items, float32.

        Row 0 is exactly zero. Where an item lacks one modality, the mean stands in for it; an
        item that lacks both gets zeros. Both kinds of zero row have `present` False. Raises
        `ValueError` where the tables are not those of one set of items, or were made by another
        encoder than those the transform was fitted on.
        """
        _require_same_items(text, image)
        for table, dim, identity, name in (
            (text, self.text_dim, self.text_identity, "text"),
            (image, self.image_dim, self.image_identity, "image"),
        ):
            if dim and table.identity != identity:
                raise ValueError(
                    f"the transform was fitted on {name} vectors of {identity!r}, these are of "
                    f"{table.identity!r}: fit it again (materialise fused_pca)"
                )
        modalities = _used(text, image, self.input, self.text_dim > 0, self.image_dim > 0)
        rows = np.flatnonzero(_any_present(modalities))
        vectors = np.zeros((len(text.item_id) + 1, self.dim), dtype=np.float32)
        for block in _blocks(len(rows)):
            centred = np.zeros((len(rows[block]), len(self.mean)))
            _fill_centred(centred, modalities, rows[block], self.mean)
            vectors[1 + rows[block]] = centred @ self.components.T
        present = np.zeros(len(vectors), dtype=bool)
        present[1 + rows] = True
        return VectorTable(
            item_id=np.concatenate([[0], text.item_id]).astype(np.int32),
            vectors=vectors,
            present=present,
            identity=self.identity,
            provenance=self.summary() | {"counts": _counts(text, image)},
        )

    def summary(self) -> dict[str, Any]:
        """Return what the transform is, JSON-serialisable."""
        return {
            "method": "pca",
            "dim": self.dim,
            **self._scalars(),
            "explained_variance": float(self.explained_variance_ratio.sum()),
            "explained_variance_ratio": self.explained_variance_ratio.tolist(),
        }

    def save(self, path: Path) -> None:
        """Write to a `.pt` file, atomically."""
        content = {
            "format": _FORMAT,
            "identity": self.identity,
            **self._scalars(),
            "mean": torch.from_numpy(self.mean),
            "components": torch.from_numpy(self.components),
            "explained_variance_ratio": torch.from_numpy(self.explained_variance_ratio),
        }
        with atomic_write(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raises `ValueError` where its content is not what it says."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise ValueError(f"{path} is not a PCA transform of format {_FORMAT}: fit it again")
        identity = content.pop("identity")
        arrays = ("mean", "components", "explained_variance_ratio")
        content |= {name: content[name].numpy() for name in arrays}
        transform = cls(**content)
        if transform.identity != identity:
            raise ValueError(
                f"{path} says that it is {identity}, but its content is {transform.identity}: "
                "fit it again"
            )
        return transform


def fit_pca(text: VectorTable, image: VectorTable, config: FusionConfig) -> PcaTransform:
    """Fit on the items that have a text or an image vector, in float64.

    The number of components is the least of `config.dim`, items - 1, and the rank of the data.
    Needs about 8 bytes for each item and column once (1 GB at 91,717 x 1,408). Raises
    `ValueError` where nothing can be fitted, or where a vector is not finite.
    """
    _require_same_items(text, image)
    modalities = _used(
        text, image, config.input, bool(text.present.any()), bool(image.present.any())
    )
    if not modalities:
        raise ValueError(
            "not one item has a text or an image vector: check the titles in item_feature and "
            "the image folder, or materialise text_embeddings and image_embeddings again"
        )
    rows = np.flatnonzero(_any_present(modalities))
    mean = np.concatenate([_mean(modality) for modality in modalities])
    matrix = np.zeros((len(rows), len(mean)))
    for block in _blocks(len(rows)):
        _fill_centred(matrix[block], modalities, rows[block], mean)
    components, ratio = _principal_components(matrix, config.dim, scale=float(np.abs(mean).max()))
    return PcaTransform(
        mean=mean,
        components=components,
        explained_variance_ratio=ratio,
        text_dim=text.dim if text.present.any() else 0,
        image_dim=image.dim if image.present.any() else 0,
        input=config.input,
        text_identity=text.identity,
        image_identity=image.identity,
        n_fitted_items=len(rows),
    )


def _principal_components(
    matrix: np.ndarray, dim: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return components `(K, D)` with fixed signs and each one's share of the variance.

    `matrix` is centred; `scale` is the largest magnitude of the mean that was taken off.
    """
    n_items, n_columns = matrix.shape
    most = min(dim, n_items - 1, n_columns)
    if most < 1:
        raise ValueError(f"a PCA needs at least two items with a vector, there are {n_items}")
    # A spread below the last digit of the float32 input is rounding, not data.
    rounding = (scale * np.finfo(np.float32).eps / 2) ** 2
    if np.vdot(matrix, matrix) <= rounding * matrix.size:
        raise ValueError(f"all {n_items:,} vectors are equal: there is nothing to fit")
    pca = PCA(most, svd_solver="covariance_eigh", copy=False).fit(matrix)
    variance = pca.explained_variance_
    # Beyond the rank of the data the directions are rounding noise, another one on each machine.
    noise = variance[0] * max(n_items, n_columns) * np.finfo(np.float64).eps
    k = max(1, int((variance > max(noise, rounding)).sum()))
    components = np.array(pca.components_[:k], dtype=np.float64)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(k), largest])[:, np.newaxis]
    return components, np.array(pca.explained_variance_ratio_[:k], dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class _Modality:
    table: VectorTable
    unit: bool

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the float64 vectors of some rows, scaled to length 1 where asked for."""
        vectors = self.table.vectors[rows].astype(np.float64)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            item = self.table.item_id[rows[np.flatnonzero(~finite)[0]]]
            raise ValueError(
                f"the vector of item {item} by {self.table.identity} is not finite; "
                f"{int((~finite).sum())} such rows near it: materialise its asset again"
            )
        if self.unit:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, length, out=vectors, where=length > 0)
        return vectors


def _used(
    text: VectorTable, image: VectorTable, kind: str, with_text: bool, with_image: bool
) -> list[_Modality]:
    chosen = [table for table, used in ((text, with_text), (image, with_image)) if used]
    return [_Modality(table, unit=kind == "unit") for table in chosen]


def _any_present(modalities: list[_Modality]) -> np.ndarray:
    return np.any([modality.table.present for modality in modalities], axis=0)


def _mean(modality: _Modality) -> np.ndarray:
    """Return the mean over the items that have this modality, `(D,) float64`."""
    rows = np.flatnonzero(modality.table.present)
    total = np.zeros(modality.table.dim)
    for block in _blocks(len(rows)):
        total += modality.rows(rows[block]).sum(axis=0)
    return total / len(rows)


def _fill_centred(
    out: np.ndarray, modalities: list[_Modality], rows: np.ndarray, mean: np.ndarray
) -> None:
    """Write the concatenated vectors minus the mean into `out`, which is zero.

    A modality that an item lacks stays zero: after centring, zero is the mean that stands in.
    """
    begin = 0
    for modality in modalities:
        columns = slice(begin, begin + modality.table.dim)
        has = modality.table.present[rows]
        out[has, columns] = modality.rows(rows[has]) - mean[columns]
        begin = columns.stop


def _blocks(n_rows: int) -> Iterator[slice]:
    return (slice(begin, begin + _BLOCK_ROWS) for begin in range(0, n_rows, _BLOCK_ROWS))


def _require_same_items(text: VectorTable, image: VectorTable) -> None:
    if np.array_equal(text.item_id, image.item_id):
        if len(text.item_id) and text.item_id[0] < 1:
            raise ValueError("item 0 is the padding row; it takes no part in the fusion")
        return
    only_text = np.setdiff1d(text.item_id, image.item_id)
    only_image = np.setdiff1d(image.item_id, text.item_id)
    raise ValueError(
        f"text and image vectors are of different items: {len(only_text):,} only in text "
        f"(as {only_text[:3].tolist()}), {len(only_image):,} only in image "
        f"(as {only_image[:3].tolist()}); materialise the older of the two again"
    )


def _counts(text: VectorTable, image: VectorTable) -> dict[str, int]:
    return {
        "items": len(text.item_id),
        "both": int((text.present & image.present).sum()),
        "text_only": int((text.present & ~image.present).sum()),
        "image_only": int((~text.present & image.present).sum()),
        "neither": int((~text.present & ~image.present).sum()),
    }

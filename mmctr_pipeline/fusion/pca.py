"""Fusion by principal components of the concatenated text and image vectors (recipe A)."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.linalg
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.items import (
    blocks,
    presence_counts,
    require_finite,
    require_fitted_on,
    require_same_items,
    with_padding_row,
)
from mmctr_pipeline.fusion.transform_store import read_transform

_FORMAT = 1


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
        item that lacks both gets zeros. Both kinds of zero row have `present` False. The
        `explained_variance` of the provenance is that of these items, which need not be those that
        the transform was fitted on. Raises `ValueError` where the tables are not those of one set
        of items, or were made by another encoder than those the transform was fitted on.
        """
        require_same_items(text, image)
        for table, dim, identity, name in (
            (text, self.text_dim, self.text_identity, "text"),
            (image, self.image_dim, self.image_identity, "image"),
        ):
            if dim:
                require_fitted_on(table, identity, name)
        modalities = _used(text, image, self.input, self.text_dim > 0, self.image_dim > 0)
        rows = np.flatnonzero(_any_present(modalities))
        vectors = np.zeros((len(text.item_id) + 1, self.dim), dtype=np.float32)
        kept = whole = 0.0
        for block in blocks(rows):
            centred = np.zeros((len(block), len(self.mean)))
            _fill_centred(centred, modalities, block, self.mean)
            fused = centred @ self.components.T
            kept += float(np.vdot(fused, fused))
            whole += float(np.vdot(centred, centred))
            vectors[1 + block] = fused
        measured = {
            "explained_variance": kept / whole if whole else 0.0,
            "counts": presence_counts(text, image),
        }
        return with_padding_row(
            text.item_id, rows, vectors, self.identity, self.summary() | measured
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
        """Read what `save` wrote.

        Raises `ValueError` where the file is damaged, or its content is not what it says.
        """
        return read_transform(path, "a PCA transform", {"format": _FORMAT}, cls._from_content)

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        arrays = ("mean", "components", "explained_variance_ratio")
        return cls(**content | {name: content[name].numpy() for name in arrays})


def fit_pca(text: VectorTable, image: VectorTable, config: FusionConfig) -> PcaTransform:
    """Fit on the items that have a text or an image vector, in float64.

    The number of components is the least of `config.dim`, items - 1, and the rank of the data.
    Works on blocks of items, so that memory beyond the vectors themselves depends on the number of
    columns alone. Raises `ValueError` where nothing can be fitted, or where a vector is not finite.
    """
    require_same_items(text, image)
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
    components, ratio = _principal_components(
        _covariance(modalities, rows, mean),
        len(rows),
        config.dim,
        scale=float(np.abs(mean).max()),
    )
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


@dataclasses.dataclass(frozen=True)
class _Modality:
    table: VectorTable
    unit: bool

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the float64 vectors of some rows, scaled to length 1 where asked for."""
        vectors = self.table.vectors[rows].astype(np.float64)
        require_finite(vectors, self.table.item_id[rows], self.table.identity)
        if self.unit:
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            np.divide(vectors, length, out=vectors, where=length > 0)
        return vectors


def _covariance(modalities: list[_Modality], rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the covariance of the concatenated vectors, `(D, D) float64`.

    In float64 throughout: with float32 sums, directions of nearly equal variance come out turned
    into each other (`benchmarks/fuse.py` measures it).
    """
    total = np.zeros((len(mean), len(mean)))
    for block in blocks(rows):
        centred = np.zeros((len(block), len(mean)))
        _fill_centred(centred, modalities, block, mean)
        total += centred.T @ centred
    return total / max(len(rows) - 1, 1)


def _principal_components(
    covariance: np.ndarray, n_items: int, dim: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return components `(K, D)` with fixed signs and each one's share of the variance.

    `scale` is the largest magnitude of the mean of the `n_items` vectors.
    """
    n_columns = len(covariance)
    most = min(dim, n_items - 1, n_columns)
    if most < 1:
        raise ValueError(f"a PCA needs at least two items with a vector, there are {n_items}")
    # A spread below the last digit of the float32 input is rounding, not data.
    rounding = (scale * np.finfo(np.float32).eps / 2) ** 2
    whole = float(np.trace(covariance))
    if whole <= rounding * n_columns:
        raise ValueError(f"all {n_items:,} vectors are equal: there is nothing to fit")
    top = (n_columns - most, n_columns - 1)
    ascending, vectors = scipy.linalg.eigh(covariance, subset_by_index=top, overwrite_a=True)
    variance = ascending[::-1]
    # Beyond the rank of the data the directions are rounding noise, another one on each machine.
    noise = variance[0] * max(n_items, n_columns) * np.finfo(np.float64).eps
    k = max(1, int((variance > max(noise, rounding)).sum()))
    components = np.ascontiguousarray(vectors[:, ::-1][:, :k].T)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(k), largest])[:, np.newaxis]
    return components, variance[:k] / whole


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
    for block in blocks(rows):
        total += modality.rows(block).sum(axis=0)
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

"""Fusion by principal components of the concatenated text and image vectors (recipe A)."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import scipy.linalg
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.modalities import Modalities, modalities_in_use, row_blocks
from mmctr_pipeline.fusion.transform import INPUTS, Transform, fitted_on


@dataclasses.dataclass(frozen=True)
class PcaTransform(Transform):
    """A fitted PCA of the concatenation of text and image vectors.

    `mean` is `(D,) float64`, `components` `(K, D) float64` with orthonormal rows, each signed so
    that its entry of largest magnitude is positive, `explained_variance_ratio` `(K,) float64`, each
    component's share of the total variance. `text_dim + image_dim == D`. Where an item lacks one
    modality, the mean replaces it.
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance_ratio: np.ndarray
    input: str

    METHOD: ClassVar = "pca"
    NAME: ClassVar = "pca{dim}-{input}"
    MARKS: ClassVar = {"format": 1}
    SCALARS: ClassVar = ("text_dim", "image_dim", "input", *INPUTS)

    def _hashed(self) -> Iterable[bytes]:
        for array in (self.mean, self.components, self.explained_variance_ratio):
            yield np.ascontiguousarray(array, dtype="<f8").tobytes()

    def _content(self) -> dict[str, Any]:
        return {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        arrays = {name: content[name].numpy() for name in _ARRAYS}
        transform = cls(**content | arrays, dim=len(arrays["components"]))
        n_columns = transform.text_dim + transform.image_dim
        shapes = [array.shape for array in arrays.values()]
        if shapes != [(n_columns,), (transform.dim, n_columns), (transform.dim,)]:
            raise ValueError(f"arrays of shapes {shapes} for {n_columns} columns")
        return transform

    def _details(self) -> dict[str, Any]:
        return {
            "explained_variance": float(self.explained_variance_ratio.sum()),
            "explained_variance_ratio": self.explained_variance_ratio.tolist(),
        }

    def _modalities(self, text: VectorTable, image: VectorTable) -> Modalities:
        used = super()._modalities(text, image)
        return dataclasses.replace(used, unit=self.input == "unit")

    def _fuse(self, modalities: Modalities, rows: np.ndarray) -> tuple[np.ndarray, float, float]:
        centred = _centred(modalities, rows, self.mean)
        fused = centred @ self.components.T
        return fused, float(np.vdot(fused, fused)), float(np.vdot(centred, centred))


_ARRAYS = ("mean", "components", "explained_variance_ratio")


def fit_pca(text: VectorTable, image: VectorTable, config: FusionConfig) -> PcaTransform:
    """Fit on the items that have a text or an image vector, in float64.

    The number of components is the least of `config.dim`, items - 1, and the rank of the data.
    Raises `ValueError` if nothing can be fitted or a vector is not finite.
    """
    modalities = modalities_in_use(text, image, unit=config.input == "unit")
    mean, components, ratio = principal_components(modalities, config.dim)
    return PcaTransform(
        **fitted_on(text, image),
        n_fitted_items=modalities.n_items,
        dim=len(components),
        mean=mean,
        components=components,
        explained_variance_ratio=ratio,
        input=config.input,
    )


def principal_components(
    modalities: Modalities, dim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean `(D,)`, components `(K, D)` and each one's share of the variance, all float64.

    Works on blocks of items, so memory beyond the vectors themselves depends only on the number of
    columns. K is the least of `dim`, items - 1, and the rank of the data; signs are fixed. Raises
    `ValueError` if there are fewer than two items or if all are equal.
    """
    mean = np.concatenate([_mean(modalities, name) for name in modalities.tables])
    n_items, n_columns = modalities.n_items, len(mean)
    most = min(dim, n_items - 1, n_columns)
    if most < 1:
        raise ValueError(f"a PCA needs at least two items with a vector, there are {n_items}")
    # In float64 throughout: with float32 sums, directions of nearly equal variance get mixed
    # (`benchmarks/fuse.py` measures it).
    covariance = np.zeros((n_columns, n_columns))
    for rows in modalities.blocks():
        centred = _centred(modalities, rows, mean)
        covariance += centred.T @ centred
    covariance /= n_items - 1
    # A spread below the last digit of the float32 input is rounding, not data.
    rounding = (float(np.abs(mean).max()) * np.finfo(np.float32).eps / 2) ** 2
    whole = float(np.trace(covariance))
    if whole <= rounding * n_columns:
        raise ValueError(f"all {n_items:,} vectors are equal: there is nothing to fit")
    top = (n_columns - most, n_columns - 1)
    ascending, vectors = scipy.linalg.eigh(covariance, subset_by_index=top, overwrite_a=True)
    variance = ascending[::-1]
    # Beyond the rank of the data, directions are rounding noise and differ between machines.
    noise = variance[0] * max(n_items, n_columns) * np.finfo(np.float64).eps
    k = max(1, int((variance > max(noise, rounding)).sum()))
    # A copy, as NumPy calls a single reversed column contiguous, but torch refuses its stride.
    components = np.array(vectors[:, ::-1][:, :k].T, order="C")
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(k), largest])[:, np.newaxis]
    return mean, components, variance[:k] / whole


def _mean(modalities: Modalities, name: str) -> np.ndarray:
    """Return the mean over the items that have this modality, `(D_m,) float64`."""
    table = modalities.tables[name]
    total = np.zeros(table.dim)
    for rows in row_blocks(table.present):
        total += modalities.vectors(name, rows).sum(axis=0)
    return total / table.present.sum()


def _centred(modalities: Modalities, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the concatenated vectors minus the mean; zero where a modality is missing."""
    centred, present = modalities.concatenated(rows)
    return np.subtract(centred, mean, out=centred, where=present)

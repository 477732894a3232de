"""Fusion by principal components: of the concatenated vectors (recipe A) or of each modality."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.components import (
    centred,
    joint_components,
    rotation,
    separate_components,
)
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.modalities import Modalities, modalities_in_use
from mmctr_pipeline.fusion.transform import INPUTS, FusedBlock, Transform, fitted_on


@dataclasses.dataclass(frozen=True)
class PcaTransform(Transform):
    """A fitted PCA of the concatenation of text and image vectors.

    The arrays are those of `Components`, with `text_dim + image_dim == D`. Rotated components are
    orthonormal too, but have no fixed signs; `explained_variance_ratio` describes the components
    before the rotation. Where an item lacks one modality, the mean replaces it.
    """

    mean: np.ndarray
    components: np.ndarray
    explained_variance_ratio: np.ndarray
    input: str
    weight: np.ndarray | None = None

    METHOD: ClassVar = "pca"
    NAME: ClassVar = "pca{dim}-{input}"
    MARKS: ClassVar = {"format": 1}
    SCALARS: ClassVar = ("text_dim", "image_dim", "input", *INPUTS)

    def _arrays(self) -> dict[str, np.ndarray]:
        # Transforms without weights keep the identity and file of versions that had no weights.
        names = ("mean", "components", "explained_variance_ratio", "weight")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _hashed(self) -> Iterable[bytes]:
        for array in self._arrays().values():
            yield np.ascontiguousarray(array, dtype="<f8").tobytes()

    def _content(self) -> dict[str, Any]:
        return {name: torch.from_numpy(array) for name, array in self._arrays().items()}

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        arrays = {name: value.numpy() for name, value in content.items() if torch.is_tensor(value)}
        transform = cls(**content | arrays, dim=len(content["components"]))
        n_columns = transform.text_dim + transform.image_dim
        expected = {
            "mean": (n_columns,),
            "components": (transform.dim, n_columns),
            "explained_variance_ratio": (transform.dim,),
            "weight": (n_columns,),
        }
        for name, array in transform._arrays().items():
            if array.shape != expected[name]:
                raise ValueError(f"{name} of shape {array.shape}, expected {expected[name]}")
        return transform

    def _details(self) -> dict[str, Any]:
        return {
            "explained_variance": float(self.explained_variance_ratio.sum()),
            "explained_variance_ratio": self.explained_variance_ratio.tolist(),
        }

    def _modalities(self, text: VectorTable, image: VectorTable) -> Modalities:
        used = super()._modalities(text, image)
        return dataclasses.replace(used, unit=self.input == "unit")

    def _fuse(self, modalities: Modalities, rows: np.ndarray) -> FusedBlock:
        inputs = centred(modalities, rows, self.mean)
        if self.weight is not None:
            inputs *= self.weight
        fused = inputs @ self.components.T
        return FusedBlock(fused, inputs, fused @ self.components)


@dataclasses.dataclass(frozen=True)
class PcaEachTransform(PcaTransform):
    """A PCA of each modality by itself (arXiv 2504.18961); text comes first in the fused vector."""

    METHOD: ClassVar = "pca_each"
    NAME: ClassVar = "pca_each{dim}-{input}"
    MARKS: ClassVar = {"method": METHOD, "format": 1}


def fit_pca(text: VectorTable, image: VectorTable, config: FusionConfig) -> PcaTransform:
    """Fit `config.method`, `pca` or `pca_each`, on the items that have a vector, in float64.

    The number of components is the least of three: `config.dim`, the number of items minus 1, and
    the rank of the data. Raises `FusionError` if nothing can be fitted or a vector is not finite.
    """
    modalities = modalities_in_use(text, image, unit=config.input == "unit")
    each = config.method == "pca_each"
    fit, kind = (
        (separate_components, PcaEachTransform) if each else (joint_components, PcaTransform)
    )
    fitted = fit(modalities, config.dim, standardised=config.input == "standardised")
    components = fitted.components
    if config.rotate:
        components = rotation(len(components), seed=0) @ components
    return kind(
        **fitted_on(text, image),
        n_fitted_items=modalities.n_items,
        dim=len(components),
        mean=fitted.mean,
        components=components,
        explained_variance_ratio=fitted.ratio,
        input=config.input,
        weight=fitted.weight,
    )

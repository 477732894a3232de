"""The base class of fitted fusions: input checks, the fused table, identity and file."""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from mmctr_pipeline.data.ids import with_padding
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.fields import require_fields
from mmctr_pipeline.files.tensors import load_tensors, save_tensors
from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.modalities import Modalities, require_same_items

INPUTS = ("text_identity", "image_identity", "n_fitted_items")
"""Fields that describe the data of the fit; they come last in `Transform.SCALARS`."""

FIX = "remove it, or run once with fusion.refit: true to fit it again"
"""Advice for a stored file that cannot be used."""


@dataclasses.dataclass(frozen=True)
class FusedBlock:
    """Fused vectors `(B, K)`, inputs of the fusion `(B, D)`, and inputs restored from `fused`.

    Inputs are centred, and scaled as the method says.
    """

    fused: np.ndarray
    inputs: np.ndarray
    restored: np.ndarray


@dataclasses.dataclass(frozen=True)
class Transform(abc.ABC):
    """A fitted fusion of text and image vectors into vectors of `dim` dimensions.

    A modality that no item had at the fit is not used and has dimension 0. `text_identity` and
    `image_identity` name the encoders of the vectors that the transform was fitted on.
    """

    dim: int
    text_dim: int
    image_dim: int
    text_identity: str
    image_identity: str
    n_fitted_items: int

    METHOD: ClassVar[str]
    NAME: ClassVar[str]
    """First part of the identity, with fields in braces."""
    MARKS: ClassVar[dict[str, Any]]
    """Entries of a file that mark its method and format."""
    SCALARS: ClassVar[tuple[str, ...]]
    """Fields that are hashed and written as plain values, in the order of the file."""

    @property
    def identity(self) -> str:
        """Name and content hash, equal only for equal transforms fitted on equal inputs."""
        digest = hashlib.sha256(json.dumps(self._scalars(), sort_keys=True).encode())
        for part in self._hashed():
            digest.update(part)
        return f"{self.NAME.format_map(vars(self))}:{digest.hexdigest()[:12]}"

    def transform(self, text: VectorTable, image: VectorTable) -> VectorTable:
        """Return the fused vectors of the padding item 0 and of all items, float32.

        Item 0 and items without any modality get zeros, with `present` False. The provenance has
        `explained_variance`, the share of the variance of the inputs that the fused vectors
        restore, and `explained_variance_of`, the same by modality. Both are measured on the items
        of the tables, which may differ from the items of the fit. The modalities that an item lacks
        do not count.

        Raises `FusionError` if the tables have different items, come from another encoder than
        those of the fit, or hold a number that is not finite.
        """
        require_same_items(text, image)
        modalities = self._modalities(text, image)
        vectors = np.zeros((len(text.item_id) + 1, self.dim), dtype=np.float32)
        present = np.zeros(len(vectors), dtype=bool)
        # Sums of squares by modality: of the errors of the restored inputs, and of the inputs.
        lost, total = np.zeros((2, len(modalities.dims)))
        for rows in modalities.blocks():
            block = self._fuse(modalities, rows)
            vectors[1 + rows] = block.fused
            present[1 + rows] = True
            lost += modalities.sums_of_squares(block.restored - block.inputs, rows)
            total += modalities.sums_of_squares(block.inputs, rows)
        shares = 1 - lost / np.where(total > 0, total, 1)
        measured = {
            "explained_variance": float(1 - lost.sum() / total.sum()) if total.any() else 0.0,
            "explained_variance_of": {
                name: float(share)
                for name, share, varies in zip(modalities.tables, shares, total > 0, strict=True)
                if varies
            },
            "counts": {
                "items": len(text.item_id),
                "both": int((text.present & image.present).sum()),
                "text_only": int((text.present & ~image.present).sum()),
                "image_only": int((~text.present & image.present).sum()),
                "neither": int((~text.present & ~image.present).sum()),
            },
        }
        item_id = with_padding(text.item_id)
        return VectorTable(item_id, vectors, present, self.identity, self.summary() | measured)

    def summary(self) -> dict[str, Any]:
        """Return settings, sizes and details of the fit, JSON-serialisable."""
        return {"method": self.METHOD, "dim": self.dim, **self._scalars(), **self._details()}

    def save(self, path: Path) -> None:
        """Write to a `.pt` file, atomically."""
        content = {**self.MARKS, "identity": self.identity, **self._scalars(), **self._content()}
        with atomic_write(path) as temporary:
            save_tensors(temporary, content)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file written by `save`.

        Raises `DamagedFileError` if the file is damaged, of another method or format, or if its
        content does not match its identity.
        """
        try:
            content = load_tensors(path)
            if not isinstance(content, dict) or any(
                content.pop(name, None) != value for name, value in cls.MARKS.items()
            ):
                form = cls.MARKS["format"]
                raise DamagedFileError(
                    f"{path} is not a transform of method {cls.METHOD} and of format {form}"
                )
            identity = content.pop("identity")
            transform = cls._from_content(content)
            require_fields(cls, vars(transform), path)
            if transform.identity != identity:
                raise DamagedFileError(
                    f"{path} is labelled {identity}, but its content is {transform.identity}"
                )
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: {FIX}") from error
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise DamagedFileError(
                f"{path} lacks a part or has a wrong one ({error}): {FIX}"
            ) from error
        return transform

    def _modalities(self, text: VectorTable, image: VectorTable) -> Modalities:
        tables = {"text": text, "image": image}
        used = {name: table for name, table in tables.items() if getattr(self, f"{name}_dim")}
        for name, table in used.items():
            fitted = getattr(self, f"{name}_identity")
            if table.identity != fitted:
                raise FusionError(
                    f"the transform was fitted on {name} vectors of {fitted!r}, these are of "
                    f"{table.identity!r}: fit it again (materialise fused_pca)"
                )
        return Modalities(used)

    def _scalars(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SCALARS}

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        """Build the transform from the entries of a file, without marks and identity."""
        return cls(**content)

    @abc.abstractmethod
    def _hashed(self) -> Iterable[bytes]:
        """Yield the bytes that the identity hashes besides `SCALARS`."""

    @abc.abstractmethod
    def _content(self) -> dict[str, Any]:
        """Return the entries of a file besides `SCALARS`."""

    @abc.abstractmethod
    def _details(self) -> dict[str, Any]:
        """Return the entries of the summary besides `SCALARS`."""

    @abc.abstractmethod
    def _fuse(self, modalities: Modalities, rows: np.ndarray) -> "FusedBlock":
        """Return the fused vectors of `rows`, with their inputs and the restored inputs."""


def fitted_on(text: VectorTable, image: VectorTable) -> dict[str, Any]:
    """Return the fields of a `Transform` that describe the vectors it is fitted on."""
    return {
        "text_dim": text.dim if text.present.any() else 0,
        "image_dim": image.dim if image.present.any() else 0,
        "text_identity": text.identity,
        "image_identity": image.identity,
    }

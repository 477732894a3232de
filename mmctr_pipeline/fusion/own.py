"""Fusions of the user's own as transforms: fitting, applying, and their file."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.components import centred
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.modalities import Modalities, modalities_in_use
from mmctr_pipeline.fusion.transform import INPUTS, FusedBlock, Transform, fitted_on
from mmctr_pipeline.plugins import plugin_class, plugin_code

# Settings of the shipped methods, which a fusion of the user's own ignores, and `refit`.
_IGNORED = {"input", "rotate", "attention", "refit"}


@dataclasses.dataclass(frozen=True)
class OwnTransform(Transform):
    """A fitted fusion of the user's own.

    `settings` are those of the fit; their `method` names its class. `code` is the hash of the code
    that was fitted; other code is refused. `fitted` holds the arrays that its `fit` returned.
    `mean` `(D,)`, with `D = text_dim + image_dim`, is subtracted from the vectors before they are
    fused. `decoder` `(dim, D)` restores these inputs from the fused vectors by least squares.
    """

    settings: dict[str, Any]
    code: str
    mean: np.ndarray
    decoder: np.ndarray
    fitted: dict[str, np.ndarray]

    METHOD: ClassVar = "own"
    NAME: ClassVar = "{settings[method]}-{dim}"
    MARKS: ClassVar = {"kind": METHOD, "format": 1}
    SCALARS: ClassVar = ("settings", "code", "dim", "text_dim", "image_dim", *INPUTS)

    def _hashed(self) -> Iterable[bytes]:
        for name, array in {"": self.mean, " ": self.decoder, **self.fitted}.items():
            yield f"{name} {array.dtype.str} {array.shape}".encode()
            yield array.tobytes()

    def _content(self) -> dict[str, Any]:
        fitted = {name: torch.from_numpy(array) for name, array in self.fitted.items()}
        mean, decoder = torch.from_numpy(self.mean), torch.from_numpy(self.decoder)
        return {"mean": mean, "decoder": decoder, "fitted": fitted}

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        fitted = {name: tensor.numpy() for name, tensor in content["fitted"].items()}
        arrays = {name: content[name].numpy() for name in ("mean", "decoder")}
        transform = cls(**{**content, **arrays, "fitted": fitted})
        n_columns = transform.text_dim + transform.image_dim
        if transform.mean.shape != (n_columns,):
            raise ValueError(f"mean of shape {transform.mean.shape}, expected {(n_columns,)}")
        if transform.decoder.shape != (transform.dim, n_columns):
            raise ValueError(f"decoder of shape {transform.decoder.shape}")
        return transform

    def _details(self) -> dict[str, Any]:
        return {"method": self.settings["method"]}

    @functools.cached_property
    def _fusion(self) -> Any:
        config = FusionConfig.from_mapping(self.settings)
        fusion = plugin_class(config.method, "fusion.method")
        if plugin_code(config.method) != self.code:
            raise FusionError(
                f"the code of {config.method} has changed since {self.identity} was fitted. Fix: "
                "restore the code, or fuse with fusion.refit: true and train again"
            )
        return fusion(config)

    def _fuse(self, modalities: Modalities, rows: np.ndarray) -> FusedBlock:
        inputs = centred(modalities, rows, self.mean)
        method = self.settings["method"]
        fused = _fused(self._fusion, method, modalities, inputs, self.fitted)
        if fused.shape[1] != self.dim:
            raise FusionError(
                f"{method}.fuse returned {fused.shape[1]} columns, and {self.dim} at the fit"
            )
        return FusedBlock(fused, inputs, fused @ self.decoder)


def fusion_settings(config: FusionConfig) -> dict[str, Any]:
    """Return the settings of a user's own fusion, those that its fit depends on."""
    return {name: value for name, value in config.to_mapping().items() if name not in _IGNORED}


def fit_own(text: VectorTable, image: VectorTable, config: FusionConfig) -> OwnTransform:
    """Fit the fusion that `config.method` names, on the items that have a vector.

    Its class is called with its settings. Its method `fit` gets the vectors of `text`, `image`, or
    both, `{name: (N, D_m) float32}`, minus their mean; where an item lacks one, zeros. It returns
    the arrays that `fuse` needs, by name. `fuse` gets vectors `(B, D_m) float64` in the same form,
    and these arrays, and returns `(B, K)` numbers. Raises `FusionError` if nothing can be fitted, a
    vector is not finite, or a method returns something else.
    """
    modalities = modalities_in_use(text, image)
    tables = modalities.tables.values()
    mean = np.concatenate([t.vectors[t.present].mean(axis=0, dtype=np.float64) for t in tables])
    blocks = list(modalities.blocks())
    fusion: Any = plugin_class(config.method, "fusion.method")(config)
    inputs = np.concatenate([centred(modalities, b, mean).astype(np.float32) for b in blocks])
    fitted = _arrays(fusion.fit(_by_modality(modalities, inputs)), config.method)
    # Sums over the items of the products of fused columns, and of fused and input columns.
    squares: Any = 0
    products: Any = 0
    for block in blocks:
        inputs = centred(modalities, block, mean)
        fused = _fused(fusion, config.method, modalities, inputs, fitted)
        squares, products = squares + fused.T @ fused, products + fused.T @ inputs
    return OwnTransform(
        **fitted_on(text, image),
        n_fitted_items=modalities.n_items,
        dim=len(squares),
        settings=fusion_settings(config),
        code=plugin_code(config.method),
        mean=mean,
        decoder=np.linalg.pinv(squares, rcond=1e-10, hermitian=True) @ products,
        fitted=fitted,
    )


def _by_modality(modalities: Modalities, inputs: np.ndarray) -> dict[str, np.ndarray]:
    parts = np.split(inputs, np.cumsum(modalities.dims)[:-1], axis=1)
    return dict(zip(modalities.tables, parts, strict=True))


def _arrays(found: Any, method: str) -> dict[str, np.ndarray]:
    """Return what `fit` returned as arrays that a file can hold, by ascending name."""
    if not isinstance(found, dict):
        raise FusionError(
            f"{method}.fit returned {type(found).__name__}. Fix: return a dict of numpy arrays"
        )
    arrays = {str(name): np.array(value, order="C") for name, value in sorted(found.items())}
    for name, array in arrays.items():
        if array.dtype.kind not in "bif":
            raise FusionError(
                f"{method}.fit returned {name} of type {array.dtype}. Fix: return arrays of numbers"
            )
    return arrays


def _fused(
    fusion: Any,
    method: str,
    modalities: Modalities,
    inputs: np.ndarray,
    fitted: dict[str, np.ndarray],
) -> np.ndarray:
    """Return the fused vectors of inputs `(B, D)`, `(B, K) float64`; raises `FusionError`."""
    fused = np.asarray(fusion.fuse(_by_modality(modalities, inputs), fitted), dtype=np.float64)
    if fused.ndim != 2 or len(fused) != len(inputs) or not fused.shape[1]:
        raise FusionError(
            f"{method}.fuse returned an array of shape {fused.shape} for {len(inputs)} items. "
            "Fix: return one row for each"
        )
    if not np.isfinite(fused).all():
        raise FusionError(f"{method}.fuse returned NaN or infinity. Fix: return finite numbers")
    return fused

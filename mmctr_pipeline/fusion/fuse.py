"""Fuse item vectors with a transform that is fitted once, as a new basis breaks trained models."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.data.outliers import without_outliers
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.fit import fit_attention
from mmctr_pipeline.fusion.attention.transform import AttentionTransform
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.own import OwnTransform, fit_own, fusion_settings
from mmctr_pipeline.fusion.pca import PcaEachTransform, PcaTransform, fit_pca
from mmctr_pipeline.fusion.transform import Transform
from mmctr_pipeline.fusion.transform_store import TransformStore
from mmctr_pipeline.plugins import is_plugin, plugin_code

logger = logging.getLogger(__name__)

TRANSFORMS: dict[str, type[Transform]] = {
    kind.METHOD: kind for kind in (PcaTransform, PcaEachTransform, AttentionTransform)
}


def transform_class(method: str) -> type[Transform]:
    """Return the class of the transforms of a method, shipped or of the user's own."""
    return OwnTransform if is_plugin(method) else TRANSFORMS[method]


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Fused vectors (row 0 the padding), the transform that made them, and its file."""

    vectors: VectorTable
    transform: Transform
    path: Path
    reused: bool


def fuse(
    text: VectorTable,
    image: VectorTable,
    read_histories: Callable[[], Ragged],
    config: FusionConfig,
    device: torch.device,
    folder: Path,
    data: str,
    transform: Transform | None = None,
    item_row: np.ndarray | None = None,
) -> Fusion:
    """Return one fused vector per item, reusing the stored transform if there is one.

    The newest transform that was fitted with the same method and its settings, the same encoders
    and the same `data` is reused, even if transforms for other inputs were fitted since.
    `config.refit` fits a new one, and so does changed code of a user's own method. Outlying
    vectors (`data.outliers`) are left out of the fit, and count as missing whether the transform is
    new or not. Raises `FusionError` as `fit_pca`, `fit_own` and `fit_attention` do, and if the
    stored transform is damaged.

    Parameters
    ----------
    text, image
        Vectors of the same items.
    read_histories
        Returns the distinct train histories; called only to fit a learned fusion.
    config
        Method, its settings, and whether to refit.
    device
        Where a learned fusion is trained.
    folder
        Where transforms are stored; several data sets can share it.
    data
        The path of the data folder, which names the data set. Another folder counts as another data
        set even if its files are equal, so that a transform fitted on a sample is not reused.
    transform
        The stored transform to use, instead of the newest one.
    item_row
        The number of each item of `text` in the histories, as in `fit_attention`.
    """
    made_by = {
        "settings": _settings_of_fit(config),
        "text_identity": text.identity,
        "image_identity": image.identity,
        "data": data,
    }
    sound_text = without_outliers(text, "text_embeddings")
    sound_image = without_outliers(image, "image_embeddings")
    store = TransformStore(folder)
    if transform is None and not config.refit:
        transform = store.newest(made_by, transform_class(config.method))
    reused = transform is not None
    if transform is None:
        if config.method == "attention":
            sound = (sound_text, sound_image)
            transform = fit_attention(*sound, read_histories(), config, device, item_row)
        else:
            fit = fit_own if is_plugin(config.method) else fit_pca
            transform = fit(sound_text, sound_image, config)
        store.save(transform, made_by)
    logger.info(f"{'reusing' if reused else 'fitted'} the transform {transform.identity}")
    vectors = transform.transform(sound_text, sound_image).recording(
        made_by=made_by,
        transform=transform.identity,
        transform_reused=reused,
        outliers={
            "text": sound_text.provenance["counts"]["outliers"],
            "image": sound_image.provenance["counts"]["outliers"],
        },
        text_content=text.content_hash(),
        image_content=image.content_hash(),
    )
    return Fusion(vectors, transform, store.path(transform.identity), reused)


def _settings_of_fit(config: FusionConfig) -> dict[str, Any]:
    """Return the settings that the fit depends on, without those of the other methods."""
    if is_plugin(config.method):
        return {**fusion_settings(config), "code": plugin_code(config.method)}
    names = ["method", "dim", "attention" if config.method == "attention" else "input"]
    if config.rotate and config.method != "attention":
        # Recorded only if it is on, so that the records of earlier versions stay valid.
        names.append("rotate")
    settings = config.to_mapping()
    return {name: settings[name] for name in names}


class StaleVectorsError(ValueError):
    """Fused vectors were made from other text or image vectors than those given."""


def require_fused_from(fused: VectorTable, text: VectorTable, image: VectorTable) -> None:
    """Raise `StaleVectorsError` unless `fused` was made from exactly these vectors."""
    for name, table in (("text", text), ("image", image)):
        if fused.provenance.get(f"{name}_content") != table.content_hash():
            raise StaleVectorsError(
                f"fused_pca was made from {name} vectors of "
                f"{fused.provenance.get(f'{name}_identity')!r}, but {name}_embeddings has been "
                f"rewritten since (now {table.identity!r}): materialise fused_pca again"
            )

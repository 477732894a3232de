"""Fusing with a transform that is fitted once and kept, as a moved basis breaks warm models."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.transform import AttentionTransform, fit_attention
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaTransform, fit_pca
from mmctr_pipeline.fusion.transform_store import TransformStore

logger = logging.getLogger(__name__)

Transform = PcaTransform | AttentionTransform

TRANSFORMS: dict[str, type[PcaTransform] | type[AttentionTransform]] = {
    "pca": PcaTransform,
    "attention": AttentionTransform,
}


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Fused vectors (row 0 the padding), the transform that made them, and where it is kept."""

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
) -> Fusion:
    """Return the fused vectors of all items, by a transform that was kept where there is one.

    Of the transforms kept in `folder`, the newest made by the same settings of the method, encoders
    and `data` is used again, whatever was made in between; `config.refit` makes a new one the
    newest. `data` names the data set by the path of its folder: another folder counts as another
    data set even where its files are equal, as a basis fitted on a sample must not be taken for
    one of the whole. `folder` keeps the transforms of all of them apart. `read_histories` returns
    the distinct train histories, and is called where a fusion is to be learned. Raises `ValueError`
    as `fit_pca` and `fit_attention`, and where the kept transform is damaged.
    """
    made_by = {
        "settings": _settings_in_use(config),
        "text_identity": text.identity,
        "image_identity": image.identity,
        "data": data,
    }
    store = TransformStore(folder)
    transform = None if config.refit else _stored(store, made_by, config.method)
    reused = transform is not None
    if transform is None:
        if config.method == "attention":
            transform = fit_attention(text, image, read_histories(), config, device)
        else:
            transform = fit_pca(text, image, config)
    path = store.path(transform.identity)
    if not reused:
        store.save(transform, made_by)
    logger.info(f"{config.method}: {'used again' if reused else 'fitted'} {transform.identity}")
    vectors = transform.transform(text, image).recording(
        made_by=made_by,
        transform=transform.identity,
        transform_reused=reused,
        text_content=text.content_hash(),
        image_content=image.content_hash(),
    )
    return Fusion(vectors, transform, path, reused)


def _settings_in_use(config: FusionConfig) -> dict[str, Any]:
    """Return the settings that the method follows; those of the other one change nothing."""
    own = {"pca": "input", "attention": "attention"}[config.method]
    settings = config.to_mapping()
    return {name: settings[name] for name in ("method", "dim", own)}


def _stored(store: TransformStore, made_by: dict[str, Any], method: str) -> Transform | None:
    """Return the newest transform with this record, or None."""
    identity = store.newest(made_by)
    if identity is None:
        logger.info(
            f"{method}: {store.folder} has no transform for these settings, encoders and data "
            f"({made_by['data']}); fitting one"
        )
        return None
    path = store.path(identity)
    if not path.is_file():
        logger.warning(f"{method}: {path} no longer exists; fitting it again")
        return None
    return TRANSFORMS[method].load(path)


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

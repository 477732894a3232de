"""Fusing with a transform that is fitted once and kept, as a moved basis breaks warm models."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.progress import Log
from mmctr_pipeline.fusion.attention.transform import AttentionTransform, fit_attention
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaTransform, fit_pca
from mmctr_pipeline.fusion.transform_store import identity_made_by, record_made_by, transform_path

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
    log: Log,
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
    transform = None if config.refit else _kept(made_by, folder, config.method, log)
    reused = transform is not None
    if transform is None:
        if config.method == "attention":
            transform = fit_attention(text, image, read_histories(), config, device, log)
        else:
            transform = fit_pca(text, image, config)
    path = transform_path(folder, transform.identity)
    if not reused:
        transform.save(path)
        record_made_by(folder, made_by, transform.identity)
    log(f"{config.method}: {'used again' if reused else 'fitted'} {transform.identity}")
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


def _kept(made_by: dict[str, Any], folder: Path, method: str, log: Log) -> Transform | None:
    """Return the newest transform made by this, or None where there is none, and say so."""
    identity = identity_made_by(folder, made_by)
    if identity is None:
        log(
            f"{method}: {folder} has no kept transform for these settings, encoders and data "
            f"({made_by['data']}): it is fitted"
        )
        return None
    path = transform_path(folder, identity)
    if not path.is_file():
        log(f"{method}: {path} is not there any more: it is fitted again")
        return None
    return TRANSFORMS[method].load(path)

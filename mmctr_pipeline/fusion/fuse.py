"""Fusing with a transform that is fitted once and kept, as a moved basis breaks warm models."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.data.progress import Log
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention import AttentionTransform, fit_attention
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaTransform, fit_pca

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
    last: Mapping[str, Any] | None,
    log: Log,
) -> Fusion:
    """Return the fused vectors of all items, by the transform of the last run where it still fits.

    `last` is the provenance of the fused vectors of the last run. Its transform, kept in `folder`,
    is used again unless `config.refit` is set, or settings, encoders or `data` (the name of the
    data set) are others; why it is not is logged. `read_histories` returns the distinct train
    histories, and is called where a fusion is to be learned. Raises `ValueError` as `fit_pca` and
    `fit_attention`.
    """
    settings = {name: value for name, value in config.to_mapping().items() if name != "refit"}
    made_by = {
        "settings": settings,
        "text_identity": text.identity,
        "image_identity": image.identity,
        "data": data,
    }
    transform = None if config.refit else _kept(last, made_by, folder, config.method, log)
    reused = transform is not None
    if transform is None:
        if config.method == "attention":
            transform = fit_attention(text, image, read_histories(), config, device, log)
        else:
            transform = fit_pca(text, image, config)
    path = transform_path(folder, transform.identity)
    if not reused:
        transform.save(path)
    log(f"{config.method}: {'used again' if reused else 'fitted'} {transform.identity}")
    vectors = transform.transform(text, image).recording(
        made_by=made_by,
        transform=transform.identity,
        transform_reused=reused,
        text_content=text.content_hash(),
        image_content=image.content_hash(),
    )
    return Fusion(vectors, transform, path, reused)


def transform_path(folder: Path, identity: str) -> Path:
    """Return where the transform of an identity is kept."""
    return folder / f"{identity.replace(':', '-')}.pt"


def _kept(
    last: Mapping[str, Any] | None,
    made_by: Mapping[str, Any],
    folder: Path,
    method: str,
    log: Log,
) -> Transform | None:
    """Return the transform of the last run, or None where there is none that fits."""
    if last is None or "transform" not in last:
        return None
    before = last.get("made_by", {})
    other = [name for name in made_by if before.get(name) != made_by[name]]
    if other:
        log(f"the fusion is fitted anew, as these are others than before: {', '.join(other)}")
        return None
    path = transform_path(folder, last["transform"])
    if not path.is_file():
        log(f"the fusion is fitted anew, as {path} is not there any more")
        return None
    return TRANSFORMS[method].load(path)

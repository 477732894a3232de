"""What titles and images are worth: one model trained with both, with either, and with neither."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.metrics import AucComparison, AucInterval, auc_interval, compare_auc
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr

VARIANTS = ("both", "text only", "images only", "neither")
COMPARISONS = (
    ("both", "text only"),
    ("both", "images only"),
    ("text only", "neither"),
    ("images only", "neither"),
)


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Valid AUC by variant, and the paired comparisons (`COMPARISONS`) on the same rows."""

    auc: dict[str, AucInterval]
    comparisons: dict[tuple[str, str], AucComparison]


def compare_modalities(
    dataset: CtrDataset,
    text: VectorTable,
    image: VectorTable,
    fusion: FusionConfig,
    model: ModelConfig,
    training: TrainingConfig,
    device: torch.device,
    log: Callable[[str], None],
) -> Ablation:
    """Train the four variants alike and compare them by paired DeLong on the valid rows.

    Vectors are fused by PCA, whatever `fusion.method` says. The variant `neither` sees zeros in
    place of every fused vector.
    """
    label = dataset.valid.label
    if label is None:
        raise ValueError("valid has no labels; there is nothing to compare on")
    scores = {}
    for variant in VARIANTS:
        log(f"training with {variant}")
        # Some models read titles and covers themselves: what is missing is missing there too.
        seen = {
            "text": text if variant in ("both", "text only") else _masked(text),
            "image": image if variant in ("both", "images only") else _masked(image),
        }
        vectors = _fused(seen["text"], seen["image"], fusion)
        trained = train_ctr(dataset, vectors, model, training, device, log, modalities=seen)
        scores[variant] = trained.valid_scores
    return Ablation(
        auc={variant: auc_interval(label, scores[variant]) for variant in VARIANTS},
        comparisons={
            (better, worse): compare_auc(label, scores[better], scores[worse])
            for better, worse in COMPARISONS
        },
    )


def _fused(text: VectorTable, image: VectorTable, fusion: FusionConfig) -> VectorTable:
    if text.present.any() or image.present.any():
        return fit_pca(text, image, fusion).transform(text, image)
    # Present but zero, as wide as the others: the same model, to which all items look alike.
    return VectorTable(
        item_id=text.item_id,
        vectors=np.zeros((len(text.item_id), fusion.dim), np.float32),
        present=np.ones(len(text.item_id), bool),
        identity="zeros",
    )


def _masked(table: VectorTable) -> VectorTable:
    return dataclasses.replace(
        table,
        vectors=np.zeros_like(table.vectors),
        present=np.zeros_like(table.present),
        identity="none",
    )

"""Whether a learned fusion pays: one CTR model trained with the vectors of each fusion, by seed."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.comparison.statistics import PairedDifference, paired_difference
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.transform import fit_attention
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr

METHODS = ("pca", "attention", "random", "random standardised")
"""`random` projects the very concatenation that `pca` reads; `random standardised` projects
vectors standardised as the attention fusion does it: the harder one to beat."""

COMPARISONS = (
    ("attention", "random"),
    ("attention", "random standardised"),
    ("attention", "pca"),
)


@dataclasses.dataclass(frozen=True)
class FusionComparison:
    """Valid AUC by method and seed, and the paired differences (`COMPARISONS`)."""

    auc: dict[str, list[float]]
    differences: dict[tuple[str, str], PairedDifference]

    def lines(self) -> list[str]:
        """Return a table to print."""
        lines = [
            f"{method:<20} {np.mean(values):.4f}  ({', '.join(f'{v:.4f}' for v in values)})"
            for method, values in self.auc.items()
        ]
        for (first, second), paired in self.differences.items():
            lines.append(
                f"{first} - {second}: {paired.difference:+.4f} "
                f"[{paired.low:+.4f}, {paired.high:+.4f}]: {paired.verdict}"
            )
        return lines

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars."""
        return {
            "valid_auc": self.auc,
            "differences": {
                f"{first} - {second}": {**dataclasses.asdict(paired), "verdict": paired.verdict}
                for (first, second), paired in self.differences.items()
            },
        }


def compare_fusions(
    dataset: CtrDataset,
    text: VectorTable,
    image: VectorTable,
    fusion: FusionConfig,
    model: ModelConfig,
    training: TrainingConfig,
    seeds: Sequence[int],
    device: torch.device,
    log: Callable[[str], None],
) -> FusionComparison:
    """Train `model` with the vectors of each of `METHODS`, once per seed, and compare.

    A seed is that of the CTR model, of the attention fusion and of the random projections alike;
    `fusion` gives everything but the method. Raises `ValueError` for fewer than two seeds, or where
    valid has no labels.
    """
    scores: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    modalities = {"text": text, "image": image}
    for seed in seeds:
        for method in METHODS:
            log(f"seed {seed}: {method}")
            vectors = fused_vectors(method, dataset, text, image, fusion, seed, device, log)
            seeded_training = dataclasses.replace(training, seed=seed)
            trained = train_ctr(
                dataset, vectors, model, seeded_training, device, log, modalities=modalities
            )
            scores[method].append(trained.valid_scores)
    return comparison_of(dataset.valid.label, scores)


def comparison_of(
    label: np.ndarray | None, scores: Mapping[str, Sequence[np.ndarray]]
) -> FusionComparison:
    """Compare valid scores by method, one array per seed in the same order of seeds."""
    if label is None:
        raise ValueError("valid has no labels; there is nothing to compare on")
    return FusionComparison(
        auc={name: [auc(label, seed) for seed in of_seeds] for name, of_seeds in scores.items()},
        differences={
            (first, second): paired_difference(label, scores[first], scores[second])
            for first, second in COMPARISONS
        },
    )


def fused_vectors(
    method: str,
    dataset: CtrDataset,
    text: VectorTable,
    image: VectorTable,
    fusion: FusionConfig,
    seed: int,
    device: torch.device,
    log: Callable[[str], None],
) -> VectorTable:
    """Return the vectors of one of `METHODS`; the attention fusion sees train histories alone."""
    if method == "pca":
        return fit_pca(text, image, fusion).transform(text, image)
    if method == "attention":
        histories = dataset.histories.take(np.unique(dataset.train.history))
        settings = dataclasses.replace(
            fusion, attention=dataclasses.replace(fusion.attention, seed=seed)
        )
        return fit_attention(text, image, histories, settings, device, log).transform(text, image)
    if method in METHODS:
        return random_projection(text, image, fusion.dim, seed, method == "random standardised")
    raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def random_projection(
    text: VectorTable, image: VectorTable, dim: int, seed: int, standardised: bool
) -> VectorTable:
    """Return a seeded Gaussian projection of the concatenated vectors to `dim` dimensions.

    Where an item lacks a modality, the mean stands in. `standardised` first gives each dimension
    a standard deviation of 1 and each modality a variance of 1 in all.
    """
    parts = []
    for table in (text, image):
        present = table.vectors[table.present].astype(np.float64)
        if not len(present):
            continue
        part = np.zeros(table.vectors.shape)
        part[table.present] = present - present.mean(axis=0)
        if standardised:
            deviation = present.std(axis=0)
            part /= np.where(deviation > 0, deviation, 1) * math.sqrt(table.dim)
        parts.append(part)
    concatenated = np.hstack(parts)
    generator = np.random.default_rng(seed)
    gaussian = generator.standard_normal((concatenated.shape[1], dim)) / math.sqrt(dim)
    vectors = (concatenated @ gaussian).astype(np.float32)
    present = text.present | image.present
    vectors[~present] = 0
    return VectorTable(text.item_id, vectors, present, f"random{dim}-{seed}")

"""Whether a learned fusion pays: one CTR model trained with the vectors of each fusion, by seed."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention import fit_attention
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.metrics import auc, compare_auc
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

MARGIN = 0.003
"""A lower end of the interval above minus this counts as not worse."""

MIN_VALID_ROWS = 50_000
"""Valid rows that a verdict needs."""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """Mean paired AUC difference of two methods over seeds, with its 95 % interval.

    The interval holds both causes of chance: the half-width is the root of the summed squares of
    the t interval over seeds and of the normal interval over valid rows. The latter takes the
    mean of the seeds' DeLong variances, which is at least the variance of the mean, since all
    seeds are measured on the same rows. `verdict` is `better` (low above 0), `not worse` (low
    above -0.003), `neither`, or `too few rows`.
    """

    difference: float
    low: float
    high: float
    seed_standard_error: float
    row_standard_error: float
    n_seeds: int
    n_valid_rows: int

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.n_valid_rows < MIN_VALID_ROWS:
            return "too few rows"
        if self.low > 0:
            return "better"
        return "not worse" if self.low > -MARGIN else "neither"


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
    for seed in seeds:
        for method in METHODS:
            log(f"seed {seed}: {method}")
            vectors = fused_vectors(method, dataset, text, image, fusion, seed, device, log)
            seeded_training = dataclasses.replace(training, seed=seed)
            trained = train_ctr(dataset, vectors, model, seeded_training, device, log)
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


def paired_difference(
    label: np.ndarray, first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> PairedDifference:
    """Return the mean AUC difference of the first less the second over seeds, with its interval.

    Raises `ValueError` for fewer than two seeds, or not as many in both.
    """
    n_seeds = len(first)
    if n_seeds < 2 or len(second) != n_seeds:
        raise ValueError(f"{n_seeds} and {len(second)} seeds; expected equally many, two at least")
    compared = [compare_auc(label, a, b) for a, b in zip(first, second, strict=True)]
    differences = np.array([comparison.difference for comparison in compared])
    seed_error = float(differences.std(ddof=1)) / math.sqrt(n_seeds)
    row_error = math.sqrt(float(np.mean([c.standard_error**2 for c in compared])))
    quantile = scipy.stats.t.ppf(0.975, n_seeds - 1), scipy.stats.norm.ppf(0.975)
    half_width = math.hypot(quantile[0] * seed_error, quantile[1] * row_error)
    mean = float(differences.mean())
    return PairedDifference(
        difference=mean,
        low=mean - half_width,
        high=mean + half_width,
        seed_standard_error=seed_error,
        row_standard_error=row_error,
        n_seeds=n_seeds,
        n_valid_rows=len(label),
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

"""Learning the attention fusion: held-out items, the batches of an epoch, early stopping."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.contrast import ContrastBatch, ContrastObjective
from mmctr_pipeline.fusion.attention.network import AttentionFusion
from mmctr_pipeline.fusion.attention.pairs import HistoryPairs
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.pca import fit_pca
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import seeded, threads_for
from mmctr_pipeline.training.loop import TrainBatches, Validation, fit
from mmctr_pipeline.training.run_state import TrainingHistory

logger = logging.getLogger(__name__)

_HELD_OUT_PAIRS = 8192
"""Pairs with a held-out item on which the held-out loss is measured, at most."""


@dataclasses.dataclass(frozen=True)
class LearnedFusion:
    """Weights of an `AttentionFusion` on the CPU, and how they were learned.

    `decoder`, `(D, K)`, restores the standardised vectors from the fused one; `mean_attention` is
    `(M,)`, over the fitted items that have every modality.
    """

    weights: dict[str, torch.Tensor]
    decoder: torch.Tensor
    dim: int
    n_fitted_items: int
    mean_attention: list[float]
    record: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Items:
    """Tables of the same N items, who has which modality, who is learned from and who held out."""

    tables: Sequence[VectorTable]
    present_NM: np.ndarray
    learned_N: np.ndarray
    held_out_N: np.ndarray


def learn_fusion(
    tables: Sequence[VectorTable],
    histories: Ragged,
    config: FusionConfig,
    device: torch.device,
) -> LearnedFusion:
    """Learn the fusion of one or two modalities, of the same items each.

    Raises `ValueError` where fewer than two items could be learned from, or all are equal.
    """
    settings = config.attention
    items = _split(tables, settings)
    components_KD, mean_D, scale_D = _beginning(items, config)
    with seeded(settings.seed, device), threads_for(settings.batch_size):
        fusion = AttentionFusion([t.dim for t in tables], len(components_KD), settings.score_dim)
        fusion.begin_from(components_KD, mean_D, scale_D)
        fusion.to(device)
        batches = _Batches(items, histories, settings, device)
        objective = ContrastObjective(
            fusion,
            items_ND=_standardised(fusion, items, device),
            present_NM=torch.from_numpy(items.present_NM).to(device),
            config=settings,
        ).to(device)
        logger.info(
            f"attention fusion: {int(items.learned_N.sum()):,} items to learn from, "
            f"{int(items.held_out_N.sum()):,} held out, {len(batches.train_pairs):,} entries of "
            f"histories with a partner, {len(batches.held_out_pairs):,} held-out pairs"
        )
        if not len(batches.train_pairs):
            logger.warning(
                "no two items with a vector appear together in any history: the fusion is "
                "learned from titles and images alone"
            )
        objective.eval()
        with torch.no_grad():
            before = batches.evaluate(objective)
        history = fit(
            objective,
            {"main": list(objective.parameters())},
            TrainBatches(batches.rows_per_epoch, batches.epoch),
            _loss,
            Validation(batches.evaluate, metric="held_out_loss", larger_is_better=False),
            _training_config(settings),
        )
        mean_attention = _mean_attention(objective, items, device)
    return LearnedFusion(
        weights={name: tensor.cpu() for name, tensor in fusion.state_dict().items()},
        decoder=objective.decoder.weight.detach().cpu(),
        dim=fusion.dim,
        n_fitted_items=int(items.learned_N.sum()),
        mean_attention=mean_attention,
        record={
            "config": settings.to_mapping(),
            "n_held_out_items": int(items.held_out_N.sum()),
            "n_histories": len(histories),
            "n_train_pairs_per_epoch": batches.n_pairs,
            "n_held_out_pairs": len(batches.held_out_pairs),
            "held_out_explained_variance": 1 - history.best.metrics["reconstruction"],
            "before_training": before,
            "history": _without_times(history),
        },
    )


def _loss(module: nn.Module, batch: ContrastBatch) -> torch.Tensor:
    assert isinstance(module, ContrastObjective)
    return module.total(module.losses(batch))


def _split(tables: Sequence[VectorTable], settings: AttentionConfig) -> _Items:
    present_NM = (
        np.stack([table.present for table in tables], axis=1) if tables else np.zeros((0, 1), bool)
    )
    present = np.flatnonzero(present_NM.any(axis=1))
    if len(present) < 3:
        raise ValueError(
            f"{len(present)} items have a text or an image vector; the attention fusion needs "
            "three at least: check the titles in item_feature and the image folder, or "
            "materialise text_embeddings and image_embeddings again"
        )
    n_held_out = min(max(1, round(len(present) * settings.held_out_share)), len(present) - 2)
    generator = np.random.default_rng([settings.seed, 0])
    held_out_N = np.zeros(len(present_NM), dtype=bool)
    held_out_N[generator.choice(present, n_held_out, replace=False)] = True
    return _Items(tables, present_NM, present_NM.any(axis=1) & ~held_out_N, held_out_N)


def _beginning(items: _Items, config: FusionConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return components `(K, D)`, mean `(D,)` and scale `(D,)` of the items to learn from.

    Each modality is standardised per dimension and has a variance of 1 in all, so that the one
    with the longer vectors does not drown the other. The components are turned at random: a CTR
    model standardises each dimension, which would raise the least component to the level of the
    first, whereas after the turn every dimension holds its share of all components.
    """
    rows = np.flatnonzero(items.learned_N)
    means, scales, standardised = [], [], []
    for table in items.tables:
        present, vectors = table.present[rows], table.vectors[rows]
        mean = vectors[present].mean(axis=0, dtype=np.float64)
        deviation = vectors[present].std(axis=0, dtype=np.float64)
        # A dimension that is constant up to rounding says nothing, however it is scaled.
        constant = deviation <= np.abs(mean) * np.finfo(np.float32).eps
        scale = np.where(constant, 1.0, deviation) * np.sqrt(table.dim)
        means.append(mean)
        scales.append(scale)
        vectors = ((vectors - mean) / scale).astype(np.float32)
        vectors[~present] = 0
        standardised.append(
            dataclasses.replace(
                table, item_id=table.item_id[rows], vectors=vectors, present=present
            )
        )
    text, image = (
        standardised if len(standardised) == 2 else (*standardised, _absent(standardised[0]))
    )
    components = fit_pca(text, image, FusionConfig(dim=config.dim)).components
    generator = np.random.default_rng([config.attention.seed, 1])
    turn, upper = np.linalg.qr(generator.standard_normal((len(components), len(components))))
    turned = (turn * np.sign(np.diag(upper))).T @ components
    return (
        turned.astype(np.float32),
        np.concatenate(means).astype(np.float32),
        np.concatenate(scales).astype(np.float32),
    )


def _absent(table: VectorTable) -> VectorTable:
    n_items = len(table.item_id)
    return VectorTable(
        table.item_id, np.zeros((n_items, 1), np.float32), np.zeros(n_items, bool), "none"
    )


def _standardised(fusion: AttentionFusion, items: _Items, device: torch.device) -> torch.Tensor:
    with torch.no_grad():
        vectors = torch.from_numpy(
            np.hstack([np.where(t.present[:, np.newaxis], t.vectors, 0) for t in items.tables])
        ).to(device)
        return fusion.standardised(vectors, torch.from_numpy(items.present_NM).to(device))


class _Batches:
    """What an epoch draws, and what the held-out loss is measured on."""

    def __init__(
        self, items: _Items, histories: Ragged, settings: AttentionConfig, device: torch.device
    ) -> None:
        item_id = items.tables[0].item_id
        self._settings, self._device = settings, device
        self._learned = np.flatnonzero(items.learned_N)
        self._held_out = np.flatnonzero(items.held_out_N)
        self.train_pairs = HistoryPairs(
            histories, item_id, items.learned_N, settings.window, settings.popularity
        )
        self._train_frequency_N = self.train_pairs.partner_frequency()
        in_use = items.learned_N | items.held_out_N
        everything = HistoryPairs(histories, item_id, in_use, settings.window, settings.popularity)
        self.held_out_pairs = everything.draw(
            _HELD_OUT_PAIRS, np.random.default_rng([settings.seed, 2]), items.held_out_N
        )
        self._frequency_N = everything.partner_frequency()
        self.n_pairs = min(len(self.train_pairs), settings.rows_per_epoch)
        n_rows = max(self.n_pairs, min(len(self._learned), settings.rows_per_epoch))
        self._n_steps = -(-n_rows // settings.batch_size)
        self._n_singles = min(settings.batch_size, len(self._learned))

    @property
    def rows_per_epoch(self) -> int:
        """Items that an epoch shows, those of pairs counting twice."""
        return 2 * self.n_pairs + self._n_steps * self._n_singles

    def epoch(self, number: int) -> Iterator[ContrastBatch]:
        """Yield the batches of one epoch, which follow from the seed and its number alone."""
        generator = np.random.default_rng([self._settings.seed, 3, number])
        pairs = self.train_pairs.draw(self.n_pairs, generator)
        for part in np.array_split(pairs, self._n_steps):
            singles = generator.choice(self._learned, self._n_singles, replace=False)
            yield self._batch(part, singles, self._train_frequency_N)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Return the three terms on held-out pairs and items, and their weighted sum."""
        assert isinstance(module, ContrastObjective)
        no_pairs, nobody = self.held_out_pairs[:0], self._held_out[:0]
        parts = [
            self._batch(part, nobody, self._frequency_N)
            for part in self._parts(self.held_out_pairs)
        ]
        of_pairs = [module.losses(part)["co_interaction"] for part in parts]
        parts = [
            self._batch(no_pairs, part, self._frequency_N) for part in self._parts(self._held_out)
        ]
        of_singles = [module.losses(part) for part in parts]
        losses = {"co_interaction": torch.stack(of_pairs).mean()}
        for name in ("image_title", "reconstruction"):
            losses[name] = torch.stack([part[name] for part in of_singles]).mean()
        losses["held_out_loss"] = module.total(losses)
        return {name: float(value) for name, value in losses.items()}

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, max(1, -(-len(rows) // self._settings.batch_size)))

    def _batch(
        self, pairs: np.ndarray, singles: np.ndarray, frequency_N: np.ndarray
    ) -> ContrastBatch:
        log_frequency_P = np.log(frequency_N[pairs[:, 1]]).astype(np.float32)
        return ContrastBatch(
            torch.from_numpy(pairs).to(self._device),
            torch.from_numpy(log_frequency_P).to(self._device),
            torch.from_numpy(singles).to(self._device),
        )


def _mean_attention(
    objective: ContrastObjective, items: _Items, device: torch.device
) -> list[float]:
    rows = np.flatnonzero(items.learned_N & items.present_NM.all(axis=1))
    if not len(rows):
        return [0.0] * len(items.tables)
    with torch.no_grad():
        return objective.attention_of(torch.from_numpy(rows).to(device)).mean(dim=0).tolist()


def _training_config(settings: AttentionConfig) -> TrainingConfig:
    return TrainingConfig(
        seed=settings.seed,
        max_epochs=settings.max_epochs,
        patience=settings.patience,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule="cosine_restarts",
        restart_epochs=settings.max_epochs,
        min_learning_rate=0.0,
        precision="float32",
        cuda_graph=False,
    )


def _without_times(history: TrainingHistory) -> dict[str, Any]:
    """Return the history as a mapping, less what differs from run to run."""
    record = history.to_mapping()
    timed = ("seconds", "validation_seconds", "rows_per_second")
    for epoch in record["epochs"]:
        for name in timed:
            del epoch[name]
    return record

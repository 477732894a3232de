"""Learning the attention fusion: held-out items, starting point, early stopping."""

import logging
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.attention.contrast import ContrastObjective
from mmctr_pipeline.fusion.attention.network import AttentionFusion
from mmctr_pipeline.fusion.attention.sampling import ContrastSampler
from mmctr_pipeline.fusion.attention.transform import AttentionTransform
from mmctr_pipeline.fusion.components import joint_components, rotation
from mmctr_pipeline.fusion.config import AttentionConfig, FusionConfig
from mmctr_pipeline.fusion.errors import FusionError
from mmctr_pipeline.fusion.modalities import Modalities, modalities_in_use, row_blocks
from mmctr_pipeline.fusion.transform import fitted_on
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.device import seeded, threads_for
from mmctr_pipeline.training.loop import TrainBatches, fit
from mmctr_pipeline.training.run_state import TrainingHistory
from mmctr_pipeline.training.stopping import EarlyStopping

logger = logging.getLogger(__name__)

# Settings that `AttentionConfig` and `TrainingConfig` have under the same names.
_SHARED = ("seed", "max_epochs", "patience", "batch_size", "learning_rate", "weight_decay")


def fit_attention(
    text: VectorTable,
    image: VectorTable,
    histories: Ragged,
    config: FusionConfig,
    device: torch.device,
    item_row: np.ndarray | None = None,
) -> AttentionTransform:
    """Learn the fusion from the items that have a text or an image vector and from histories.

    A share of the items, drawn by the seed, is held out. They take part in no pair, no contrast and
    no statistics of training, and the loss on them (`attention/contrast.py`) selects the epoch. The
    number of dimensions is the least of three: `config.dim`, the number of items learned from minus
    1, and the rank of the data. The same seed gives the same transform, bit by bit, on the CPU with
    the same number of threads. Raises `FusionError` if nothing can be fitted, a vector is not
    finite, or a history contains an item without a row.

    Parameters
    ----------
    text, image
        Vectors of the same items.
    histories
        The distinct histories of the train split. Their values are numbers in `item_row`.
    config
        Dimensions and the settings of `attention`.
    device
        Where to train.
    item_row
        The number that stands for each item of `text` in the histories, `(N,)`, ascending; by
        default the item's id.
    """
    item_row = text.item_id if item_row is None else item_row
    settings = config.attention
    modalities = modalities_in_use(text, image)
    vectors_ND = _vectors(modalities)
    learned_N, held_out_N = _split(modalities, settings)
    n_learned, n_held_out = int(learned_N.sum()), int(held_out_N.sum())
    components_KD, mean_D, scale_D = _starting_point(modalities, learned_N, config)
    training = TrainingConfig(
        **{name: getattr(settings, name) for name in _SHARED},
        schedule="cosine_restarts",
        restart_epochs=settings.max_epochs,
        min_learning_rate=0.0,
        precision="float32",
        cuda_graph=False,
    )
    with seeded(settings.seed, device), threads_for(settings.batch_size):
        fusion = AttentionFusion(modalities.dims, len(components_KD), settings.score_dim)
        fusion.start_from(components_KD, mean_D, scale_D)
        fusion.to(device)
        sampler = ContrastSampler(histories, item_row, learned_N, held_out_N, settings, device)
        present_NM = torch.from_numpy(modalities.present).to(device)
        with torch.no_grad():
            items_ND = fusion.standardised(torch.from_numpy(vectors_ND).to(device), present_NM)
        objective = ContrastObjective(fusion, items_ND, present_NM, settings).to(device)
        logger.info(
            f"attention fusion: {n_learned:,} items to learn from, {n_held_out:,} held-out items; "
            f"{len(sampler.train_pairs):,} history entries have a partner to learn from; "
            f"{len(sampler.held_out_pairs):,} held-out pairs"
        )
        if not len(sampler.train_pairs):
            logger.warning(
                "no two items with a vector appear together in any history: learning the fusion "
                "only from titles and images"
            )
        objective.eval()
        with torch.no_grad():
            before = sampler.held_out_losses(objective)
        history = fit(
            objective,
            {"main": list(objective.parameters())},
            TrainBatches(sampler.rows_per_epoch, sampler.epoch),
            lambda _, batch: objective.total(objective.losses(batch)),
            EarlyStopping(
                lambda _: sampler.held_out_losses(objective),
                "held_out_loss",
                training,
                larger_is_better=False,
            ),
            training,
        )
        attention_M = objective.mean_attention(torch.from_numpy(learned_N).to(device))
    return AttentionTransform(
        **fitted_on(text, image),
        n_fitted_items=n_learned,
        dim=fusion.dim,
        score_dim=settings.score_dim,
        weights={name: tensor.cpu() for name, tensor in fusion.state_dict().items()},
        decoder=objective.decoder.weight.detach().cpu(),
        training={
            "config": settings.to_mapping(),
            "n_held_out_items": n_held_out,
            "n_histories": len(histories),
            "n_train_pairs_per_epoch": sampler.n_pairs,
            "n_held_out_pairs": len(sampler.held_out_pairs),
            "held_out_explained_variance": 1 - history.best.metrics["reconstruction"],
            "before_training": before,
            "history": _without_times(history),
            "mean_attention": {"text": 0.0, "image": 0.0}
            | dict(zip(modalities.tables, attention_M.tolist(), strict=True)),
        },
    )


def _vectors(modalities: Modalities) -> np.ndarray:
    """Return the vectors of all items, `(N, D) float32`, zero where a modality is missing."""
    everything = row_blocks(np.ones(len(modalities.present), dtype=bool))
    return np.concatenate([modalities.concatenated(rows)[0].astype("f4") for rows in everything])


def _split(modalities: Modalities, settings: AttentionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return which items to learn from, and which are held out, each as `(N,) bool`."""
    present = np.flatnonzero(np.any(modalities.present, axis=1))
    if len(present) < 3:
        raise FusionError(
            f"{len(present)} items have a text or an image vector; the attention fusion needs "
            "at least three: check the titles in item_feature and the image folder, or "
            "materialise text_embeddings and image_embeddings again"
        )
    n_held_out = min(max(1, round(len(present) * settings.held_out_share)), len(present) - 2)
    generator = np.random.default_rng([settings.seed, 0])
    learned_N, held_out_N = np.zeros((2, len(modalities.present)), dtype=bool)
    learned_N[present] = True
    held_out_N[generator.choice(present, n_held_out, replace=False)] = True
    return learned_N & ~held_out_N, held_out_N


def _starting_point(
    modalities: Modalities, learned_N: np.ndarray, config: FusionConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return components `(K, D)`, mean `(D,)` and scale `(D,)`, float32, from the learned items.

    Each dimension is standardised and each modality has a total variance of 1, so that the modality
    with the longer vectors does not dominate. The components are rotated at random. Without the
    rotation, a CTR model, which standardises each dimension, would raise the least component to the
    level of the first. After the rotation, every dimension holds a share of all components.
    """
    rows = np.flatnonzero(learned_N)
    standardised, means, scales = {}, [], []
    for name, table in modalities.tables.items():
        present, vectors = table.present[rows], table.vectors[rows]
        mean = vectors[present].mean(axis=0, dtype=np.float64)
        deviation = vectors[present].std(axis=0, dtype=np.float64)
        # A dimension that is constant up to rounding holds no information, so it is not scaled.
        constant = deviation <= np.abs(mean) * np.finfo(np.float32).eps
        scale = np.where(constant, 1.0, deviation) * np.sqrt(table.dim)
        means.append(mean)
        scales.append(scale)
        vectors = ((vectors - mean) / scale).astype(np.float32)
        standardised[name] = VectorTable(table.item_id[rows], vectors, present, table.identity)
    components = joint_components(Modalities(standardised), config.dim).components
    rotated = rotation(len(components), [config.attention.seed, 1]) @ components
    return (
        rotated.astype(np.float32),
        np.concatenate(means).astype(np.float32),
        np.concatenate(scales).astype(np.float32),
    )


def _without_times(history: TrainingHistory) -> dict[str, Any]:
    """Return the history as plain values, without the times, which differ from run to run."""
    record = history.to_mapping()
    for epoch in record["epochs"]:
        for name in ("seconds", "validation_seconds", "rows_per_second"):
            del epoch[name]
    return record

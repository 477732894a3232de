"""Vectors of a comparison's rows: as the assets encode and fuse them, or as a row varies that."""

import functools
import math
from pathlib import Path

import numpy as np
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.data.config import DEFAULT_DATA, DataConfig
from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.encoders.config import EncodersConfig
from mmctr_pipeline.encoders.store.vector_store import VectorStore


class RowVectors:
    """Gives each row its vectors, using the vector store and the stored transforms in `storage`.

    Parameters
    ----------
    layout, items
        The data folder and its items.
    storage
        The deployment's storage folder.
    device
        Where encoders and a learned fusion run.
    days
        The window of logs by day, for a learned fusion.
    """

    def __init__(
        self,
        layout: DataLayout,
        items: ItemTable,
        storage: Path,
        device: torch.device,
        days: DataConfig = DEFAULT_DATA,
    ) -> None:
        self._layout, self._items, self._device, self._days = layout, items, device, days
        self._store = VectorStore(storage / "vectors")
        self._transforms = storage / "transforms"
        self._encode = functools.cache(self._encode_both)

    def __call__(self, entry: Entry) -> ItemVectors:
        """Return the vectors of a row; raises `SettingsError` if an encoder is unavailable."""
        text, image = self._encode(entry.preset.encoders)
        if "text" in entry.without:
            text = _zeros(text, text.dim, present=False)
        if "image" in entry.without:
            image = _zeros(image, image.dim, present=False)
        fusion = entry.preset.fusion
        if entry.without and not (text.present.any() or image.present.any()):
            # The zeros count as present, so that the model has the inputs of the other rows, but it
            # cannot tell items apart by them.
            fused = _zeros(text, fusion.dim, present=True)
        elif entry.projection is not None:
            seed, is_standardised = entry.preset.training.seed, entry.projection == "standardised"
            fused = random_projection(text, image, fusion.dim, seed, is_standardised)
        else:
            data = (self._layout, self._items, text, image)
            where = (self._transforms, self._device)
            fused = pipeline.fuse(*data, fusion, *where, self._days).vectors
        return ItemVectors(fused, text, image)

    def _encode_both(self, encoders: EncodersConfig) -> tuple[VectorTable, VectorTable]:
        data, where = (self._layout, self._items), (self._store, self._device)
        text = pipeline.encode_titles(*data, encoders.text, *where)
        image = pipeline.encode_images(*data, encoders.image, *where)
        return text.table, image.table


def _zeros(table: VectorTable, dim: int, *, present: bool) -> VectorTable:
    """Return zeros for the items of `table`, all of them present or all missing."""
    n_items = len(table.item_id)
    vectors, mask = np.zeros((n_items, dim), np.float32), np.full(n_items, present)
    return VectorTable(table.item_id, vectors, mask, identity="none")


def random_projection(
    text: VectorTable, image: VectorTable, dim: int, seed: int, standardised: bool
) -> VectorTable:
    """Return a seeded Gaussian projection of the centred and concatenated vectors.

    An item that lacks one modality gets that modality's mean. An item that lacks both is not
    present in the result.

    Parameters
    ----------
    text, image
        Vectors of the same items.
    dim
        Dimensions of the result.
    seed
        Seed of the projection matrix.
    standardised
        Whether to scale each dimension to a standard deviation of 1, and then each modality to a
        total variance of 1, before the projection.
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

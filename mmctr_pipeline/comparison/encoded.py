"""Data encoded and fused as the assets do it by a preset, to compare models outside Dagster."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.interactions import build_dataset
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.hub import ModelNotFoundError
from mmctr_pipeline.encoders.image.encode import encode_images
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.encoders.text.encode import encode_titles
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.progress import Log
from mmctr_pipeline.fusion.fuse import fuse
from mmctr_pipeline.presets.preset import Preset, load_preset
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.device import resolve_device


@dataclasses.dataclass(frozen=True)
class EncodedWorld:
    """A data folder with its vectors, the preset that says how to go on, and where to do it."""

    folder: Path
    dataset: CtrDataset
    text: VectorTable
    image: VectorTable
    preset: Preset
    device: torch.device
    storage: Path

    def fused(self, log: Log) -> TrainingInputs:
        """Return what models are trained on, fused by the transform that is kept in storage."""
        vectors = fuse(
            self.text,
            self.image,
            lambda: self.dataset.histories.take(np.unique(self.dataset.train.history)),
            self.preset.fusion,
            self.device,
            self.storage / "transforms",
            data=str(self.folder.resolve()),
            log=log,
        ).vectors
        return TrainingInputs(self.dataset, vectors, self.text, self.image)


def encode_world(folder: Path, preset: str, deployment: Deployment, log: Log) -> EncodedWorld:
    """Read a data folder, and encode what the deployment's vector store lacks, by a preset.

    Raises `SettingsError` for an unknown preset, or one whose encoder is not to be had; else as
    `find_data`, `build_dataset` and the encoders do.
    """
    device, storage = resolve_device(deployment.device), deployment.storage_dir
    loaded = load_preset(preset)
    encoders = loaded.encoders
    layout = find_data(folder)
    dataset = build_dataset(layout, log)
    store = VectorStore(storage / "vectors")
    given = {
        name: read_given_vectors(layout, settings.column) if settings.source == "given" else None
        for name, settings in (("text", encoders.text), ("image", encoders.image))
    }
    try:
        text = encode_titles(dataset.items, encoders.text, device, store, log, given["text"])
        image = encode_images(
            dataset.items.item_id,
            layout.images,
            encoders.image,
            device,
            store,
            log,
            given["image"],
        )
    except ModelNotFoundError as error:
        raise SettingsError(str(error)) from error
    return EncodedWorld(layout.root, dataset, text.table, image.table, loaded, device, storage)

"""Item vectors as a model file records them, so that older models can still score."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.cluster.ray_session import has_ray
from mmctr_pipeline.data.build import read_train_histories
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError, has_identity
from mmctr_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)


def vectors_for(
    model_file: ModelFile,
    present: ItemVectors,
    layout: DataLayout,
    items: ItemTable,
    storage: Path,
    device: torch.device,
) -> ItemVectors:
    """Return `present` if the model was trained on these vectors, else those that it records.

    Raises `ModelFileError` if the model's encoders or its transform are no longer there.
    """
    if has_identity(model_file, present):
        return present
    logger.info("the model was trained on other vectors than the present ones: looking those up")
    return recorded_vectors(
        model_file, layout, items, storage / "vectors", storage, storage / "transforms", device
    )


def recorded_data(model_file: ModelFile) -> DataConfig:
    """Return the settings, with the day, of the dataset that a model was trained on.

    Files of earlier versions record none. Raises `SettingsError` for invalid ones.
    """
    recorded = model_file.resolved_config.get("train_dataset", {}).get("data", {})
    return DataConfig.from_mapping(recorded, "the model file", "train_dataset.data")


def recorded_encoders(model_file: ModelFile) -> tuple[TextEncoderConfig, ImageEncoderConfig]:
    """Return the encoders of the vectors that a model was trained on; raises `ModelFileError`.

    They run in this process if Ray, on which they ran, is not installed here.
    """
    recorded = model_file.resolved_config
    here = {} if has_ray() else {"compute": "local"}
    with _usable_configuration():
        return (
            TextEncoderConfig.from_mapping(recorded["text_embeddings"]["encoder"] | here),
            ImageEncoderConfig.from_mapping(recorded["image_embeddings"]["encoder"] | here),
        )


@contextlib.contextmanager
def _usable_configuration() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, SettingsError) as error:
        reason = error if isinstance(error, SettingsError) else repr(error)
        raise ModelFileError(
            f"the configuration of encoders and fusion in the model file is not usable: {reason}"
        ) from error


def recorded_vectors(
    model_file: ModelFile,
    layout: DataLayout,
    items: ItemTable,
    vector_store: Path,
    storage: Path,
    transforms: Path,
    device: torch.device,
) -> ItemVectors:
    """Encode and fuse as a model file records, with its stored transform or else a new one.

    Raises `ModelFileError` if the recorded configuration is not usable, and the errors of
    `pipeline.encode_titles`, `pipeline.encode_images` and `fusion.fuse.fuse`.

    Parameters
    ----------
    model_file
        The model whose configuration counts.
    layout
        The data, where covers and given vectors are.
    items
        The items to encode.
    vector_store
        Folder of the vector store; missing vectors are encoded and added.
    storage
        The storage folder with the stored transforms.
    transforms
        Folder for a transform that has to be fitted again.
    device
        Where to compute.
    """
    from mmctr_pipeline.encoders.store.vector_store import VectorStore
    from mmctr_pipeline.fusion import fuse
    from mmctr_pipeline.fusion.transform_store import TransformStore

    text_config, image_config = recorded_encoders(model_file)
    with _usable_configuration():
        fusion = FusionConfig.from_mapping(model_file.resolved_config["fused_pca"]["fusion"])
    store = VectorStore(vector_store)
    text = pipeline.encode_titles(layout, items, text_config, store, device).table
    image = pipeline.encode_images(layout, items, image_config, store, device).table
    stored = TransformStore(storage / "transforms").path(model_file.transform_identity)
    fused = fuse.fuse(
        text,
        image,
        lambda: read_train_histories(layout, items, recorded_data(model_file)),
        fusion,
        device,
        transforms,
        data=str(layout.root.resolve()),
        transform=fuse.transform_class(fusion.method).load(stored) if stored.is_file() else None,
        item_row=items.item_id,
    )
    return ItemVectors(fused.vectors, text, image)

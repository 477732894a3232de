"""The pipeline as plain functions, from a data folder to scores; also the public Python API.

Dagster's assets and the comparisons call these functions. Each takes settings and values and
returns values; files are written only by encoders (into `store`), fusion (into `transforms`) and
training (into `checkpoints`, if given). `docs/python_api.md` has a short example of a whole run.
"""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmctr_pipeline.baselines import baseline_scores, compare_with_baselines
from mmctr_pipeline.calibration import saved_map
from mmctr_pipeline.data.build import build_dataset, read_train_histories
from mmctr_pipeline.data.config import DEFAULT_DATA, DataConfig
from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.model_rows import in_model_rows
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.config import ModelConfig, model_config_from
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError, require_identity
from mmctr_pipeline.registry.restore import build_module, saved_id_maps
from mmctr_pipeline.training.batch_source import BatchSource, item_features
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, train_ctr
from mmctr_pipeline.training.score import score as score_rows
from mmctr_pipeline.training.warm_start import WarmStart

# Encoders and fusion are imported by the functions that use them: their libraries take seconds to
# load, and Dagster runs each function in its own process.
if TYPE_CHECKING:
    from mmctr_pipeline.encoders.image.encode import ImageEncoding
    from mmctr_pipeline.encoders.store.vector_store import VectorStore
    from mmctr_pipeline.encoders.text.encode import TextEncoding
    from mmctr_pipeline.fusion.fuse import Fusion

logger = logging.getLogger(__name__)


def load_dataset(layout: DataLayout, data: DataConfig = DEFAULT_DATA) -> CtrDataset:
    """Read, validate and compact the interactions and the item table.

    For logs by day, `data` chooses the days, by default those up to the latest complete day. Raises
    `DataError` if the data are invalid; the message names file, column and row. Raises
    `DataNotFoundError` for a day that does not exist, and `SettingsError` if `data` names a day but
    the data are not by day.
    """
    logger.info(layout.description)
    return build_dataset(layout, data)


def encode_titles(
    layout: DataLayout,
    items: ItemTable,
    config: TextEncoderConfig,
    store: "VectorStore",
    device: torch.device,
) -> "TextEncoding":
    """Return one vector per item title; titles that `store` already holds are not encoded.

    Raises `SettingsError` if the model of `config` is unavailable, and the other errors of
    `encoders.text.encode.encode_titles`.

    Parameters
    ----------
    layout
        The data, where the vectors of `source: given` are.
    items
        The items to encode.
    config
        Encoder, text template and precision.
    store
        Encodings of earlier runs; new ones are added.
    device
        Where the encoder runs.
    """
    from mmctr_pipeline.encoders.text import encode

    return encode.encode_titles(items, config, device, store, _given_vectors(layout, config))


def encode_images(
    layout: DataLayout,
    items: ItemTable,
    config: ImageEncoderConfig,
    store: "VectorStore",
    device: torch.device,
) -> "ImageEncoding":
    """Return one vector per cover image; images that `store` already holds are not encoded.

    Raises `SettingsError` if the model of `config` is unavailable, and the other errors of
    `encoders.image.encode.encode_images`.

    Parameters
    ----------
    layout
        The data, where the images and the vectors of `source: given` are.
    items
        The items to encode.
    config
        Encoder and precision.
    store
        Encodings of earlier runs; new ones are added.
    device
        Where the encoder runs.
    """
    from mmctr_pipeline.encoders.image import encode

    given = _given_vectors(layout, config)
    return encode.encode_images(items.ids, layout.images, config, device, store, given)


def _given_vectors(
    layout: DataLayout, config: TextEncoderConfig | ImageEncoderConfig
) -> VectorTable | None:
    return read_given_vectors(layout, config.column) if config.source == "given" else None


def fuse(
    layout: DataLayout,
    items: ItemTable,
    text: VectorTable,
    image: VectorTable,
    config: FusionConfig,
    transforms: Path,
    device: torch.device,
    data: DataConfig = DEFAULT_DATA,
) -> "Fusion":
    """Return one fused vector per item, by a stored transform if there is one for these inputs.

    Raises `FusionError` if `text` and `items` have different items, and the errors of
    `fusion.fuse.fuse`.

    Parameters
    ----------
    layout
        The data; its folder is part of a stored transform's key, and a learned fusion reads
        the train histories from it.
    items
        The item table that histories are checked against.
    text, image
        Vectors of each modality.
    config
        Method and dimensions, and whether to ignore the stored transform (`refit`).
    transforms
        Folder of stored transforms; a new one is added.
    device
        Where a learned fusion is trained.
    data
        The days that a learned fusion reads from logs by day, as in `load_dataset`.
    """
    from mmctr_pipeline.fusion import fuse
    from mmctr_pipeline.fusion.errors import FusionError

    if not np.array_equal(text.item_id, items.ids):
        raise FusionError(
            f"there are title vectors of {len(text.item_id):,} items, and {len(items):,} rows in "
            "the item table, but their ids differ: item_feature has changed since the titles were "
            "encoded; materialise text_embeddings and image_embeddings again"
        )
    return fuse.fuse(
        text,
        image,
        lambda: read_train_histories(layout, items, data),
        config,
        device,
        transforms,
        data=str(layout.root.resolve()),
        item_row=items.item_id,
    )


def train(
    dataset: CtrDataset,
    vectors: ItemVectors,
    model: ModelConfig,
    training: TrainingConfig,
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    warm_start: WarmStart | None = None,
) -> TrainedCtr:
    """Train a model on the train rows and select its epoch on the valid rows.

    With `final_fit`, a new model is then trained on train and valid rows together and returned
    instead. Raises the errors of `training.ctr.train_ctr`.

    Parameters
    ----------
    dataset
        All three splits; train and valid need labels of both classes.
    vectors
        Fused vectors, and the title and cover vectors if `model` reads them.
    model, training
        Settings of the model and of its training.
    device
        Where to train.
    checkpoints
        Where to save progress, and to resume from.
    warm_start
        An earlier model whose weights to begin with, where it fits.
    """
    return train_ctr(dataset, vectors, model, training, device, checkpoints, warm_start)


def score(
    model: TrainedCtr | ModelFile,
    dataset: CtrDataset,
    split: Split,
    vectors: ItemVectors,
    device: torch.device,
) -> np.ndarray:
    """Return the click probability of each row of `split`, `(N,) float32`.

    Users and items keep the rows that they have in the model's tables, even if the dataset gives
    their ids other rows. If the model has a calibration map, it is applied.

    Raises `ModelFileError` if the model of a file was trained on other vectors, `TrainingDataError`
    if `vectors` lacks a modality that the model reads, and `OtherIdsError` if the model was trained
    on integer ids and the dataset has strings, or the other way round.

    Parameters
    ----------
    model
        A model just trained, or loaded from its file.
    dataset
        The dataset of these rows, for its histories and items.
    split
        The rows to score.
    vectors
        The vectors that the model was trained on.
    device
        Where to score.
    """
    if isinstance(model, ModelFile):
        require_identity(model, vectors)
        module = build_module(model, device)
        config = model_config_from(model.model_config, "saved model_config")
        # Files written before this setting existed were trained in float32.
        precision = model.training_config.get("precision", "float32")
        spec, id_maps = FeatureSpec.from_mapping(model.spec, "saved spec"), saved_id_maps(model)
        calibration = saved_map(model.calibration)
    else:
        module, config = model.module, model.model_config
        precision = model.training_config.precision
        spec, id_maps, calibration = model.spec, model.id_maps, model.calibration
    items, histories, rows = in_model_rows(dataset, split, id_maps, spec.n_items, spec.n_users)
    features = item_features(items, vectors, config).to(device)
    source = BatchSource(rows, histories, features, device, config.max_history)
    return score_rows(module, source, precision, calibration=calibration)


def with_baselines(
    model: ModelFile, dataset: CtrDataset, vectors: ItemVectors, device: torch.device
) -> ModelFile:
    """Add the trivial baselines to a model file that was saved without them, and return it.

    Earlier versions of this package saved such files. The valid rows are scored again, so `dataset`
    and `vectors` must be those that the model was trained on. Raises `ModelFileError` if they are
    not, and if the model has had a final fit.
    """
    problem = ""
    if model.final_fit is not None:
        problem = "its weights were trained on the valid rows too, so these rows cannot validate it"
    elif model.data_fingerprint != dataset.fingerprint:
        problem = "train_dataset has changed since"
    if problem:
        raise ModelFileError(
            "the model was saved without trivial baselines to compare it with, and they cannot be "
            f"added: {problem}; materialise trained_model again"
        )
    logger.info("the model was saved without trivial baselines: scoring the valid rows again")
    assert dataset.valid.label is not None
    scores = score(model, dataset, dataset.valid, vectors, device)
    trivial = baseline_scores(dataset, dataset.valid, vectors.text)
    found = compare_with_baselines(dataset.valid.label, scores, trivial)
    return dataclasses.replace(
        model,
        metrics={**model.metrics, **found.metrics},
        baselines=found.to_mapping(),
        absent_baselines=found.absent,
    )

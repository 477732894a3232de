"""Rebuild from a model file what scoring and training on need: module, ids, a warm start."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ids import IdMap, ids_from_arrays
from mmctr_pipeline.files.tensors import allocation_limit
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.training.device import seeded
from mmctr_pipeline.training.warm_start import WarmStart

logger = logging.getLogger(__name__)


def saved_id_maps(model_file: ModelFile) -> dict[str, IdMap]:
    """Return the ids behind the rows of the model's tables, by column; raises `ModelFileError`."""
    maps = {}
    for column, tensors in model_file.id_maps.items():
        try:
            arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
            maps[column] = IdMap(ids_from_arrays(arrays), is_identity=False)
        except (ValueError, TypeError) as error:
            raise ModelFileError(f"the model's ids of {column} are damaged: {error}") from error
    return maps


def build_module(model_file: ModelFile, device: torch.device | str = "cpu") -> CtrModel:
    """Return the model with its weights on `device`, in evaluation mode.

    Raises `SettingsError` for a configuration that this pipeline does not know, and
    `DamagedFileError` if the weights do not match the configuration, also if the configuration asks
    for more memory than there is.
    """
    config = model_config_from(model_file.model_config, "saved model_config")
    spec = FeatureSpec.from_mapping(model_file.spec, "saved spec")
    # Not on the meta device: initialisation there first imports a compiler, which takes seconds.
    limit = allocation_limit(model_file.state_dict.values())
    with seeded(0, torch.device("cpu")), limit:
        module = build_model(config, spec)
    _require_kinds(model_file.state_dict, module)
    weights = {name: tensor.to(device) for name, tensor in model_file.state_dict.items()}
    try:
        module.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFileError(f"the weights do not fit the saved configuration: {error}") from error
    return module.eval()


def _require_kinds(weights: Mapping[str, torch.Tensor], module: CtrModel) -> None:
    """Raise `ModelFileError` unless the weights have the dtype and layout of the module's."""
    for name, expected in module.state_dict().items():
        found = weights.get(name, expected)
        if (found.dtype, found.layout, found.is_meta) != (expected.dtype, torch.strided, False):
            raise ModelFileError(
                f"state_dict.{name} is {found.dtype}, {found.layout} on {found.device}; the saved "
                f"configuration needs {expected.dtype}, {expected.layout}"
            )


def warm_start_from(model_file: ModelFile, version: str) -> WarmStart:
    """Return the weights of a version for the training of another model to begin with."""
    return WarmStart(
        name=version,
        state_dict=model_file.state_dict,
        model_config=model_config_from(model_file.model_config, "saved model_config"),
        spec=FeatureSpec.from_mapping(model_file.spec, "saved spec"),
        id_maps=saved_id_maps(model_file),
        vectors={"fused": model_file.vector_identity, **model_file.encoder_identities},
        last_train_day=model_file.last_train_day,
    )


def champions_weights(
    storage: Path, dataset: CtrDataset, choice: Literal["auto", "champion", "never"]
) -> WarmStart | None:
    """Return the champion's weights to begin with; None, with the reason in the log, if not usable.

    They are not if the champion may have been trained on valid rows of the dataset, which then
    could not tell how good the new model is: in logs by day, if the last day that it was trained on
    is not before the valid days; in other data, after a final fit. `choice` is
    `TrainingConfig.warm_start`.
    """
    if choice == "never" or (choice == "auto" and not dataset.day):
        return None
    # Imported here, because it needs more packages than a machine that only trains may have.
    from mmctr_pipeline.registry.champion import Champion

    champion = Champion.read(storage)
    if champion is None:
        logger.info("from scratch: there is no champion yet to begin with")
        return None
    model_file = champion.load(storage)
    if dataset.day:
        last_day = model_file.last_train_day or model_file.data_day
        is_usable = "" < last_day < dataset.first_valid_day
    else:
        is_usable = model_file.final_fit is None
    if not is_usable:
        logger.info(
            f"from scratch: the champion {champion.version} may have been trained on valid rows of "
            "these data"
        )
        return None
    return warm_start_from(model_file, champion.version)

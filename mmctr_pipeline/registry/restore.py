"""Rebuild from a model file what scoring needs: the module and the ids behind its tables."""

from collections.abc import Mapping

import torch

from mmctr_pipeline.data.ids import IdMap, ids_from_arrays
from mmctr_pipeline.files.tensors import allocation_limit
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.registry.model_file import ModelFile, ModelFileError
from mmctr_pipeline.training.device import seeded


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

"""Judge a trained model by its AUC. Its check and the submission each use their own settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.known import data_set_name
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.presets.preset import ChecksConfig
from mmctr_pipeline.sample.config import SamplePaths

if TYPE_CHECKING:
    from mmctr_pipeline.registry.auc_gate import AucVerdict

_VECTORS = ("fused_pca", "text_embeddings", "image_embeddings")


def auc_verdict(config: AssetConfig, deployment: DeploymentResource, model: Any) -> "AucVerdict":
    """Judge a `ModelFile` by the section `checks` of a configuration.

    A model file of an earlier version has no baselines. They are then computed from the artefacts
    in storage.
    """
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.registry.auc_gate import AucVerdict, judge_auc
    from mmctr_pipeline.registry.model_file import ModelFileError

    limits = config.settings("checks", ChecksConfig)
    if limits.beat_baselines and not (model.baselines or model.absent_baselines):
        try:
            dataset, vectors = _training_inputs(deployment.storage)
            model = pipeline.with_baselines(model, dataset, vectors, deployment.torch_device())
        except ModelFileError as error:
            return AucVerdict(False, str(error))
    return judge_auc(model, limits.auc_floor, limits.beat_baselines)


def data_name(dataset: CtrDataset, deployment: DeploymentResource) -> str:
    """Return the name of the data set if it is a known one, otherwise "".

    A sample dataset can have the numbers of rows and items of a known data set; it has no name.
    """
    name = data_set_name(dataset)
    return "" if name and SamplePaths(deployment.data_root()).summary.is_file() else name


def _training_inputs(storage: Path) -> tuple[CtrDataset, ItemVectors]:
    from mmctr_pipeline.registry.model_file import ModelFileError

    paths = {name: storage / f"{name}.parquet" for name in _VECTORS}
    for name, path in {"train_dataset": storage / "train_dataset", **paths}.items():
        if not path.exists():
            raise ModelFileError(
                "the model was saved without trivial baselines to compare it with, and they cannot "
                f"be added, as {path} is missing: materialise {name}, or trained_model again"
            )
    dataset = CtrDataset.read(storage / "train_dataset")
    return dataset, ItemVectors(*(VectorTable.read(path) for path in paths.values()))

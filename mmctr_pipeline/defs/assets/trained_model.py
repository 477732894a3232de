"""`trained_model`: the CTR model, with everything that scoring must know of it."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.config import (
    asset_config,
    deployment,
    model_settings,
    resolved,
    to_settings,
)
from mmctr_pipeline.defs.executors import GPU_TAGS
from mmctr_pipeline.defs.metadata import OWNERS, check_results, check_specs, picture
from mmctr_pipeline.defs.resources import PlacesResource
from mmctr_pipeline.presets.preset import preset_name
from mmctr_pipeline.training.config import TrainingConfig

TrainedModelConfig = asset_config("trained_model")

CODE_VERSION = "4"
"""Raised whenever the same inputs would give another model."""


@dg.asset(
    description="The CTR model at its epoch of best validation AUC; best_model.pt points to it.",
    group_name="training",
    kinds={"pytorch"},
    owners=OWNERS,
    op_tags=GPU_TAGS,
    code_version=CODE_VERSION,
    io_manager_key="model_io",
)
def trained_model(
    context: dg.AssetExecutionContext,
    config: TrainedModelConfig,  # type: ignore[valid-type]
    places: PlacesResource,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> Any:  # a ModelFile; naming the type here would import torch with the definitions
    """Train on the train rows, stop on the valid rows, and record what was measured."""
    import torch

    from mmctr_pipeline.fusion.lineage import require_fused_from
    from mmctr_pipeline.precision import dtype_for, dtype_name
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.training.checkpoint import Checkpoints, run_key
    from mmctr_pipeline.training.ctr import train_ctr

    require_fused_from(fused_pca, text_embeddings, image_embeddings)
    device = places.torch_device()
    key = run_key(
        config=resolved(config),
        code_version=CODE_VERSION,
        data=train_dataset.fingerprint,
        vectors=fused_pca.content_hash(),
        modalities=[text_embeddings.content_hash(), image_embeddings.content_hash()],
        device=device.type,
        number_format=dtype_name(dtype_for(config.training.precision, device)),  # type: ignore[attr-defined]
        threads=torch.get_num_threads(),
    )
    trained = train_ctr(
        train_dataset,
        fused_pca,
        model_settings(config.model),  # type: ignore[attr-defined]
        to_settings(config.training, TrainingConfig),  # type: ignore[attr-defined]
        device,
        context.log.info,
        Checkpoints.of_run(places.storage, key),
        {"text": text_embeddings, "image": image_embeddings},
    )
    model = ModelFile.from_trained(
        trained,
        data_fingerprint=train_dataset.fingerprint,
        vector_identity=fused_pca.identity,
        encoder_identities={
            "text": text_embeddings.identity,
            "image": image_embeddings.identity,
        },
        transform_identity=fused_pca.identity,
        auc_floor=resolved(config)["checks"]["auc_floor"],
        resolved_config={
            **resolved(config),
            "text_embeddings": text_embeddings.provenance["config"],
            "image_embeddings": image_embeddings.provenance["config"],
            "fused_pca": fused_pca.provenance["config"],
            "device": str(device),
        },
        run_key=key,
        preset=preset_name(deployment()),
    )
    context.add_output_metadata(_metadata(model, len(train_dataset.train), resolved(config)))
    return model


def _metadata(model: Any, n_train_rows: int, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model file records, as the asset's page shows it."""
    from mmctr_pipeline.registry.card import popularity_table
    from mmctr_pipeline.reporting.plots import reliability, training_curve

    return {
        **model.metrics,
        "parameters": model.n_parameters,
        "train rows": n_train_rows,
        "device": model.resolved_config["device"],
        "vectors": model.vector_identity,
        "data fingerprint": model.data_fingerprint,
        "configuration": dg.MetadataValue.json(configuration),
        "metrics are": model.measured_on or "of this model",
        **({"final fit": dg.MetadataValue.json(model.final_fit)} if model.final_fit else {}),
        "AUC by popularity": dg.MetadataValue.md(popularity_table(model.evaluation)),
        "curve": picture(training_curve(model.history), "loss and AUC by epoch"),
        "reliability": picture(
            reliability(model.evaluation["calibration"]), "share of clicks by probability"
        ),
    }


@dg.multi_asset_check(
    name="trained_model_checks",
    specs=check_specs(
        "trained_model",
        blocking={"auc_floor": "the validation AUC reaches the preset's floor"},
    ),
)
def trained_model_checks(
    context: dg.AssetCheckExecutionContext, trained_model: Any
) -> Iterator[dg.AssetCheckResult]:
    """Check the AUC that the model file records against the floor that it records."""
    from mmctr_pipeline.reporting.checks import auc_floor

    metrics = trained_model.metrics
    yield from check_results(
        "trained_model",
        [
            auc_floor(
                metrics["valid_auc"],
                metrics["valid_auc_low"],
                metrics["valid_auc_high"],
                trained_model.auc_floor,
                trained_model.measured_on,
            )
        ],
    )

"""`trained_model`: the CTR model, with everything that scoring needs."""

from typing import Any

import dagster as dg

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.auc_gate import auc_verdict, data_name
from mmctr_pipeline.defs.config import AssetConfig, current_deployment
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.plugins import plugin_code
from mmctr_pipeline.presets.preset import preset_name
from mmctr_pipeline.reporting import checks
from mmctr_pipeline.training.config import TrainingConfig

TRAINING_MODULE = "mmctr_pipeline.training.ctr"


@declare.asset(
    decided_by=TRAINING_MODULE,
    kinds={"pytorch"},
    io_manager_key="model_io",
)
def trained_model(
    config: AssetConfig,
    deployment: DeploymentResource,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> dg.Output[Any]:  # a ModelFile; annotating it would import torch with the definitions
    """The CTR model of the epoch with the best validation AUC; latest_model.pt points to it.

    With training.final_fit, a model is then trained again from scratch on train and valid rows
    together. It is trained for the number of epochs that was best before.
    """
    import torch

    from mmctr_pipeline import pipeline
    from mmctr_pipeline.fusion.fuse import require_fused_from
    from mmctr_pipeline.precision import dtype_for, dtype_name
    from mmctr_pipeline.registry.card import epochs_table, popularity_table
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.registry.restore import champions_weights
    from mmctr_pipeline.reporting.plots import gradient_curve, reliability, training_curve
    from mmctr_pipeline.training.checkpoint import Checkpoints, run_key

    require_fused_from(fused_pca, text_embeddings, image_embeddings)
    device = deployment.torch_device()
    training = config.settings("training", TrainingConfig)
    start = champions_weights(deployment.storage, train_dataset, training.warm_start)
    key = run_key(
        config=config.resolved,
        code_version=code_version(TRAINING_MODULE) + plugin_code(config.model_settings().name),
        data=train_dataset.fingerprint,
        vectors=fused_pca.content_hash(),
        modalities=[text_embeddings.content_hash(), image_embeddings.content_hash()],
        device=device.type,
        number_format=dtype_name(dtype_for(training.precision, device)),
        threads=torch.get_num_threads(),
        warm_start=start.name if start else "",
    )
    vectors = ItemVectors(fused_pca, text_embeddings, image_embeddings)
    trained = pipeline.train(
        train_dataset,
        vectors,
        config.model_settings(),
        training,
        device,
        Checkpoints.for_run(deployment.storage, key),
        start,
    )
    model = ModelFile.from_trained(
        trained,
        vectors,
        data_fingerprint=train_dataset.fingerprint,
        data_name=data_name(train_dataset, deployment),
        resolved_config={
            **config.resolved,
            "text_embeddings": text_embeddings.provenance["config"],
            "image_embeddings": image_embeddings.provenance["config"],
            "fused_pca": fused_pca.provenance["config"],
            "train_dataset": train_dataset.provenance["config"],
            "device": str(device),
        },
        run_key=key,
        preset=preset_name(current_deployment()),
        data_day=train_dataset.day,
        last_train_day=max(train_dataset.train_rows_by_day, default=""),
    )
    best = trained.history.best
    metadata: dict[str, Any] = {
        **model.metrics,
        "train_loss": best.train_loss,
        "learning_rate": best.learning_rate,
        "gradient_norm": best.gradient_norm,
        "largest_gradient_norm": best.largest_gradient_norm,
        "parameters": model.n_parameters,
        "train rows": len(train_dataset.train),
        "device": str(device),
        "vectors": model.vector_identity,
        "data fingerprint": model.data_fingerprint,
        "configuration": dg.MetadataValue.json(config.resolved),
        "metrics describe": model.measured_run or "this model",
        "training began": f"with the weights of {model.warm_start}" * bool(model.warm_start)
        or "from scratch",
        **({"final fit": dg.MetadataValue.json(model.final_fit)} if model.final_fit else {}),
        "epochs": dg.MetadataValue.md(epochs_table(model.history)),
        "AUC by popularity": dg.MetadataValue.md(popularity_table(model.evaluation)),
        "curve": declare.picture(training_curve(model.history), "loss and AUC by epoch"),
        "gradients": declare.picture(
            gradient_curve(model.history), "gradient norm and learning rate by epoch"
        ),
        "reliability": declare.picture(
            reliability(model.evaluation["calibration"]), "share of clicks by probability"
        ),
    }
    return dg.Output(model, metadata=metadata)


@declare.checks(
    not_blocking=("auc_floor",),  # `champion` is the gate.
    auc_floor="the validation AUC beats the trivial baselines and the floor, if one is set",
)
def trained_model_checks(
    config: AssetConfig, deployment: DeploymentResource, trained_model: Any
) -> list[checks.CheckOutcome]:
    """Compare the AUC in the model file with the trivial baselines and the floor."""
    return [checks.auc_floor(auc_verdict(config, deployment, trained_model))]

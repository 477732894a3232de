"""`champion`: the model that submissions come from; the model trained last competes with it."""

import logging
from typing import Any

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.auc_gate import auc_verdict
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.defs.run_events import notify_from_step
from mmctr_pipeline.monitoring.notify import Kind
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.reporting.checks import CheckOutcome

logger = logging.getLogger(__name__)

_REJECTED: Kind = "challenger_rejected"


@declare.asset(
    decided_by="mmctr_pipeline.registry.contest",
    kinds={"pytorch"},
    io_manager_key="champion_io",
)
def champion(
    context: dg.AssetExecutionContext,
    config: AssetConfig,
    deployment: DeploymentResource,
    trained_model: Any,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> dg.Output[Any]:
    """The model that submissions come from; best_model.pt points to it.

    The model trained last replaces it if it passes the AUC gate and is not worse on today's valid
    rows. Otherwise the champion stays. promotion.version promotes a version without a comparison.
    """
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.monitoring.night import require_not_blocked
    from mmctr_pipeline.recorded_vectors import vectors_for
    from mmctr_pipeline.registry.champion import drop_versions
    from mmctr_pipeline.registry.contest import NoChampionError, hold_contest, promote_by_hand
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.registry.versions import latest_version
    from mmctr_pipeline.reporting.contest import contest_numbers, contest_table, write_contest

    promotion, storage = config.settings("promotion", PromotionConfig), deployment.storage
    present = ItemVectors(fused_pca, text_embeddings, image_embeddings)

    def score(model: ModelFile) -> Any:
        device, layout = deployment.torch_device(), deployment.layout()
        vectors = vectors_for(model, present, layout, train_dataset.items, storage, device)
        return pipeline.score(model, train_dataset, train_dataset.valid, vectors, device)

    if promotion.version is not None:
        outcome = promote_by_hand(storage, promotion.version, "promotion.version was set")
    else:
        require_not_blocked(storage, train_dataset.fingerprint)
        version, verdict = latest_version(storage), auc_verdict(config, deployment, trained_model)
        figures = "" if verdict.passed else f"auc_floor: {verdict.figures or verdict.explanation}"
        try:
            outcome = hold_contest(
                storage, version, trained_model, verdict, train_dataset, score, promotion
            )
        except NoChampionError as error:
            notify_from_step(context, storage, _REJECTED, figures or str(error), str(error))
            raise
        if not outcome.promoted and not outcome.is_past_day:
            headline, detail = figures or outcome.problems[0], "; ".join(outcome.problems)
            notify_from_step(context, storage, _REJECTED, headline, f"{version}: {detail}")
    logger.info(outcome.headline)
    write_contest(storage, outcome)
    drop_versions(storage, outcome.champion, promotion.keep_models, promotion.keep_former)
    metadata: dict[str, Any] = {
        "challenger": outcome.version,
        "champion": outcome.champion.version,
        "promoted": outcome.promoted,
        "verdict": outcome.headline,
        **contest_numbers(outcome),
        "comparison": dg.MetadataValue.md(contest_table(outcome)),
        "configuration": dg.MetadataValue.json(config.resolved),
    }
    return dg.Output(outcome.champion, metadata=metadata)


@declare.checks(
    not_blocking=("challenger_promoted",),
    challenger_promoted="the model trained last became the champion",
)
def champion_checks(deployment: DeploymentResource) -> list[CheckOutcome]:
    """Report whether the model trained last became the champion."""
    from mmctr_pipeline.reporting.contest import challenger_promoted

    return [challenger_promoted(deployment.storage)]

"""`model_report`: one HTML page about the model trained last."""

from typing import Any

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.resources import DeploymentResource


@declare.asset(
    decided_by="mmctr_pipeline.reporting.report.page",
    kinds={"html"},
    io_manager_key="report_io",
    # Not an input: a model is also reported if no contest was held, or if it was rejected.
    deps=["champion"],
    # The submission goes first.
    last=True,
)
def model_report(
    deployment: DeploymentResource,
    trained_model: Any,
    text_embeddings: VectorTable,
    image_embeddings: VectorTable,
    fused_pca: VectorTable,
    train_dataset: CtrDataset,
) -> dg.Output[Any]:
    """Quality, curves, slices, neighbours and predictions of the model trained last, as one page.

    `models/<version>/report.html` needs no network; `latest_report.html` points to it.
    """
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.registry.champion import Champion
    from mmctr_pipeline.registry.contest import valid_scores
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.registry.versions import latest_version
    from mmctr_pipeline.reporting.contest import find_contest
    from mmctr_pipeline.reporting.report.inputs import ReportInputs, sampled_test_rows
    from mmctr_pipeline.reporting.report.page import build_report

    storage, device = deployment.storage, deployment.torch_device()
    vectors = ItemVectors(fused_pca, text_embeddings, image_embeddings)
    version, champion = latest_version(storage), Champion.read(storage)

    def score(model: ModelFile) -> Any:
        return pipeline.score(model, train_dataset, train_dataset.valid, vectors, device)

    test = train_dataset.test.take(sampled_test_rows(train_dataset))
    inputs = ReportInputs(
        model=trained_model,
        version=version,
        dataset=train_dataset,
        vectors=vectors,
        images=deployment.layout().images,
        valid_scores=valid_scores(trained_model, train_dataset, score),
        test_scores=pipeline.score(trained_model, train_dataset, test, vectors, device),
        contest=find_contest(storage, version),
        champion=champion.version if champion else "",
    )
    report = build_report(inputs)
    metadata: dict[str, Any] = {
        "summary": dg.MetadataValue.md(report.summary),
        **{name: declare.picture(png, name) for name, png in report.pictures.items()},
        "version": version,
        "size in MB": len(report.html.encode()) / 1e6,
    }
    return dg.Output(report, metadata=metadata)

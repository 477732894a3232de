"""In a browser: from the graph of a new deployment to checks that passed and the model's report."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample
from mmctr_pipeline_tests.browser import browser, needs_chromium
from mmctr_pipeline_tests.defs import servers
from mmctr_pipeline_tests.defs.dagster_pages import DagsterPages
from mmctr_pipeline_tests.defs.running import Deployment
from mmctr_pipeline_tests.defs.test_definitions import CHECKS

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    generate_sample(SampleConfig.scaled(0.1), tmp_path / "data")
    return Deployment(tmp_path / "data", tmp_path / "deployment")


@pytest.fixture
def pages(deployment: Deployment) -> Iterator[DagsterPages]:
    deployment.folder.mkdir()
    # All steps in one process: the run is several times as fast on so few rows.
    with servers.webserver(deployment, MMCTR_EXECUTOR="in_process") as url, browser() as chromium:
        yield DagsterPages(chromium.new_page(viewport={"width": 1500, "height": 1500}), url)


def test_a_user_materialises_everything_sees_the_checks_pass_and_opens_the_report(
    pages: DagsterPages, deployment: Deployment
) -> None:
    pages.open_graph()
    # Dagster's invitation to its community would cover the graph.
    assert pages.page.get_by_text("Join the Dagster community").count() == 0
    pages.materialize_all()
    assert pages.wait_for_the_end() == "Success"

    for asset in ("train_dataset", "fused_pca", "trained_model", "submission_csv"):
        assert pages.open_checks(asset) == dict.fromkeys(CHECKS[asset], "Succeeded")

    model = ModelFile.load(deployment.storage / "latest_model.pt")
    auc = f"{model.metrics['valid_auc']:.4f}"
    pages.open_asset("model_report", last_key="path")
    assert auc in pages.show_markdown("summary").inner_text()

    pages.page.goto((deployment.storage / "latest_report.html").as_uri())
    pages.page.locator("[data-chart=map] svg").wait_for()
    assert auc in pages.page.locator("main").inner_text()

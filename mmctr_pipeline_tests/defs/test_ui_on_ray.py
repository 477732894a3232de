"""In a browser: the sample dataset with both encoders and the training on Ray."""

from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample
from mmctr_pipeline_tests.browser import browser, needs_chromium
from mmctr_pipeline_tests.defs import servers
from mmctr_pipeline_tests.defs.dagster_pages import DagsterPages
from mmctr_pipeline_tests.defs.running import Deployment

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, needs_chromium]

PRESET = Path(__file__).parents[2] / "examples" / "ray.yaml"


def test_a_user_materialises_everything_on_ray(tmp_path: Path) -> None:
    generate_sample(SampleConfig.scaled(0.1), tmp_path / "data")
    deployment = Deployment(tmp_path / "data", tmp_path / "deployment")
    deployment.folder.mkdir()
    variables = {"MMCTR_PRESET": str(PRESET), "MMCTR_EXECUTOR": "in_process"}
    with servers.webserver(deployment, **variables) as url, browser() as chromium:
        pages = DagsterPages(chromium.new_page(viewport={"width": 1500, "height": 1500}), url)
        pages.open_graph()
        pages.materialize_all()
        assert pages.wait_for_the_end() == "Success"
    with dg.DagsterInstance.from_config(str(deployment.home)) as instance:
        [run] = instance.get_runs()
    log = "\n".join(entry.message for entry in deployment.records(run.run_id))
    assert log.count("shard on") == 2  # titles and covers
    assert "training on 2 ranks" in log
    assert "all 2 ranks have the same weights" in log

"""A real webserver with its daemon lists the assets, and a run launched there finishes."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline_tests.defs import servers
from mmctr_pipeline_tests.defs.running import Deployment
from mmctr_pipeline_tests.defs.test_definitions import CHECKS

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 300

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
STATUS = """
query Status($runId: ID!) { runOrError(runId: $runId) { ... on Run { status } } }
"""
ASSETS = """
query Assets {
  assetNodes { assetKey { path } groupName description hasAssetChecks }
}
"""


class Webserver:
    """A running dagster-webserver and its address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="module")
def deployment(small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return Deployment(small_sample, tmp_path_factory.mktemp("webserver"))


@pytest.fixture(scope="module")
def webserver(deployment: Deployment) -> Iterator[Webserver]:
    with servers.webserver(deployment) as url:
        yield Webserver(url)


def test_the_webserver_lists_all_assets_with_descriptions(webserver: Webserver) -> None:
    nodes = webserver.query(ASSETS)["assetNodes"]
    assert {node["assetKey"]["path"][0] for node in nodes} == {
        *("item_feature", "item_images", "interactions", "text_embeddings", "image_embeddings"),
        *("fused_pca", "train_dataset", "trained_model", "champion", "model_report"),
        "submission_csv",
    }
    assert all(node["description"] for node in nodes)


def test_a_run_launched_through_graphql_finishes_with_its_checks_passed(
    webserver: Webserver, deployment: Deployment
) -> None:
    params = {
        "selector": {
            "repositoryLocationName": "mmctr_pipeline",
            "repositoryName": "__repository__",
            "jobName": "full_pipeline",
            "assetSelection": [{"path": ["train_dataset"]}],
        },
        "mode": "default",
    }
    launched = webserver.query(LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (status := webserver.query(STATUS, runId=run_id)["runOrError"]["status"]) not in (
        *("SUCCESS", "FAILURE", "CANCELED"),
    ):
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status == "SUCCESS"
    assert deployment.check_results(run_id) == {
        f"train_dataset.{name}": True for name in CHECKS["train_dataset"]
    }
    assert (deployment.storage / "train_dataset" / "train.parquet").is_file()

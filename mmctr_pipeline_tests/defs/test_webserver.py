"""A real webserver with its daemon lists the assets, and a run launched there finishes."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline_tests.defs.running import Deployment
from mmctr_pipeline_tests.defs.servers import BIN, WORKSPACE, server
from mmctr_pipeline_tests.defs.test_definitions import CHECKS
from mmctr_pipeline_tests.ports import free_port

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
    log, port = deployment.folder / "webserver.log", free_port()
    url = f"http://127.0.0.1:{port}"
    # Runs are queued; the daemon, which `dagster dev` starts too, launches them.
    command = [str(BIN / "dagster"), "dev", "-p", str(port), "-h", "127.0.0.1", *WORKSPACE]
    with server(command, deployment.environment(), log) as process:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_of_an_asset_loads_in_a_browser(webserver: Webserver, tmp_path: Path) -> None:
    page = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-sync"),
            *("--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=20000", "--dump-dom", f"{webserver.url}/assets/fused_pca"),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    ).stdout
    assert "Title and image vectors fused into one per item" in page
    assert "explained_variance" in page or "Latest check results" in page
    # Dagster's invitation to its community would cover the page.
    assert "Join the Dagster community" not in page

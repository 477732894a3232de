"""One finished run of the whole pipeline, shared by the tests that look at what it left."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline_tests.defs.running import Deployment


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A deployment in which the whole pipeline ran once, what it printed, and its summary."""

    deployment: Deployment
    log: str
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def finished_run(small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole pipeline, run once on the small world as `make run` does."""
    deployment = Deployment(small_sample, tmp_path_factory.mktemp("deployment"))
    result = subprocess.run(
        [sys.executable, "-m", "mmctr_pipeline.defs.run"],
        env=deployment.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:]
    summary = json.loads((deployment.storage / "run_summary.json").read_text())
    return FinishedRun(deployment, result.stdout, summary)

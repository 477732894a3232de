"""One finished run of the whole pipeline, shared by the tests that look at what it left."""

import dataclasses
from pathlib import Path

import pytest

from mmctr_pipeline_tests.defs.running import Deployment


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A deployment in which the whole pipeline ran once, and that run's log."""

    deployment: Deployment
    log: str


@pytest.fixture(scope="session")
def finished_run(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole pipeline, run once by `dagster asset materialize` on the small world."""
    deployment = Deployment(small_world, tmp_path_factory.mktemp("deployment"))
    result = deployment.materialize("*")
    assert result.returncode == 0, result.stdout[-6000:]
    return FinishedRun(deployment, result.stdout)

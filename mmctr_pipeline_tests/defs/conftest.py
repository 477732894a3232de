"""One finished run of the whole pipeline, shared by the tests that inspect its results."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline.files.locks import locked
from mmctr_pipeline_tests.defs.running import Deployment


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A deployment after one run of the whole pipeline, with the printed lines and the summary."""

    deployment: Deployment
    log: str
    summary: dict[str, Any]

    def copy(self, folder: Path) -> Deployment:
        """Return a deployment with its own copy of the storage folder."""
        shutil.copytree(self.deployment.storage, folder / "storage", symlinks=True)
        return dataclasses.replace(self.deployment, folder=folder)


@pytest.fixture(scope="session")
def finished_run(small_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole pipeline, run once on the small sample dataset as `make run` does.

    If several test workers need the run, the first one makes it and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished_run"
    with locked(folder.with_name("finished_run.lock")):
        if not (folder / "log.txt").exists():
            _run_pipeline(small_sample, folder)
    log = (folder / "log.txt").read_text()
    deployment = Deployment(Path((folder / "data.txt").read_text()), folder)
    summary = json.loads((deployment.storage / "run_summary.json").read_text())
    return FinishedRun(deployment, log, summary)


def _run_pipeline(data: Path, folder: Path) -> None:
    result = Deployment(data, folder).run_pipeline()
    assert result.returncode == 0, result.stdout[-6000:]
    (folder / "data.txt").write_text(str(data))
    (folder / "log.txt").write_text(result.stdout)

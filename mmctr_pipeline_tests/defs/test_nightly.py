"""A real daemon starts the nightly run at MMCTR_CRON, and the run succeeds."""

from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.servers import daemon
from mmctr_pipeline_tests.defs.test_definitions import CHECKS

EVERY_MINUTE = {
    "MMCTR_NIGHTLY": "cron",
    "MMCTR_CRON": "* * * * *",
    "MMCTR_EXECUTOR": "in_process",
}


@pytest.mark.slow
def test_the_schedule_of_a_real_daemon_starts_one_run_which_succeeds(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    with daemon(deployment, **EVERY_MINUTE) as dagster:
        (record,) = dagster.finished_runs("full_pipeline", 1, timeout_seconds=300)
    run = record.dagster_run
    assert run.status is dg.DagsterRunStatus.SUCCESS, dagster.log.read_text()
    assert run.tags["dagster/schedule_name"] == "nightly"
    assert run.tags["mmctr/storage"] == str(deployment.storage)
    passed = deployment.check_results(run.run_id)
    assert passed == {f"{asset}.{name}": True for asset, names in CHECKS.items() for name in names}
    assert not (deployment.storage / "events.jsonl").exists()

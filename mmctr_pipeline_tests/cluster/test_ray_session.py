"""Ray starts on this machine, and lines logged by its workers arrive here."""

import logging
import subprocess
import sys

import pytest

from mmctr_pipeline.cluster.log_relay import relayed_logs, sending_logs
from mmctr_pipeline.cluster.ray_session import describe_cluster, n_gpus, ray_session
from mmctr_pipeline.environment import DeploymentError

ray = pytest.importorskip("ray")


def test_lines_of_a_worker_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def log_a_line(relay: object) -> None:
        with sending_logs(relay):
            logging.getLogger("mmctr_pipeline.training").info("from the worker")

    with caplog.at_level(logging.INFO), ray_session():
        assert describe_cluster().startswith("1 node, ")
        assert n_gpus() == 0
        with relayed_logs() as relay:
            ray.get(ray.remote(log_a_line).remote(relay))
    assert "from the worker" in [r.getMessage() for r in caplog.records]
    assert not ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refusal = pytest.raises(DeploymentError, match=r"RAY_ADDRESS is '127.0.0.1:1'.*Fix: ")
    with refusal, ray_session():
        pass


def test_the_local_pipeline_does_not_import_ray() -> None:
    code = (
        "import sys, mmctr_pipeline.pipeline, mmctr_pipeline.definitions\n"
        "import mmctr_pipeline.encoders.text.encode, mmctr_pipeline.encoders.image.encode\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=900)

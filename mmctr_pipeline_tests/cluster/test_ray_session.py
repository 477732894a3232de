"""Ray starts on this machine, and lines logged by its workers arrive here."""

import logging
import subprocess
import sys
import time

import pytest
import torch

from mmctr_pipeline.cluster import ray_session as session_module
from mmctr_pipeline.cluster.log_relay import relayed_logs, sending_logs
from mmctr_pipeline.cluster.ray_session import (
    describe_cluster,
    n_gpus,
    ray_session,
    warnings_of_changes,
)
from mmctr_pipeline.environment import DeploymentError

ray = pytest.importorskip("ray")


def test_lines_of_a_worker_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def log_a_line(relay: object) -> None:
        with sending_logs(relay):
            logging.getLogger("mmctr_pipeline.training").info("from the worker")

    with caplog.at_level(logging.INFO), ray_session():
        assert describe_cluster().startswith("1 node, ")
        assert n_gpus() == torch.cuda.device_count()
        with relayed_logs() as relay:
            ray.get(ray.remote(log_a_line).remote(relay))
    assert "from the worker" in [r.getMessage() for r in caplog.records]
    assert not ray.is_initialized()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    refusal = pytest.raises(DeploymentError, match=r"RAY_ADDRESS is '127.0.0.1:1'.*Fix: ")
    with refusal, ray_session():
        pass


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265"])
def test_an_address_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(DeploymentError, match=r"Fix: give HOST:PORT"), ray_session():
        pass


def test_a_change_of_the_cluster_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = iter(["2 nodes", "2 nodes", "1 node"])
    monkeypatch.setattr(session_module, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(session_module, "describe_cluster", lambda: next(found, "1 node"))
    with warnings_of_changes("ranks wait"):
        deadline = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.messages == ["Ray: now 1 node; ranks wait"]


def test_the_local_pipeline_does_not_import_ray() -> None:
    code = (
        "import sys, mmctr_pipeline.pipeline, mmctr_pipeline.definitions\n"
        "import mmctr_pipeline.encoders.text.encode, mmctr_pipeline.encoders.image.encode\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=900)

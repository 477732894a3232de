"""A machine outside a Ray cluster joins it for the time of a session."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline_tests.ray_cluster import ray_cluster

pytest.importorskip("ray")

SESSION = """
import ray
from mmctr_pipeline.cluster.ray_session import describe_cluster, ray_session
with ray_session():
    print(describe_cluster(), "answers", ray.get(ray.remote(lambda: 5).remote()))
"""


def _apart(folder: Path) -> list[str]:
    """Return a command prefix: a program that sees no process, and nothing in `folder`."""
    hide = f'mount -t tmpfs none {folder} && exec "$@"'
    return ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", hide, "sh"]


def _can_be_apart(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_apart(folder), "true"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_machine_outside_the_cluster_joins_it_without_cpus(tmp_path: Path) -> None:
    if not _can_be_apart(tmp_path):
        pytest.skip("this machine does not allow new namespaces")
    with ray_cluster(n_nodes=1, n_cpus=1) as cluster:
        variables = os.environ | cluster.variables
        program = [sys.executable, "-c", SESSION]
        inside = subprocess.run(
            program, env=variables, capture_output=True, text=True, timeout=200, check=True
        )
        outside = subprocess.run(
            [*_apart(cluster.folder), *program],
            env=variables,
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert "1 node, 1 CPU, 0 GPUs answers 5" in inside.stdout
    assert "2 nodes, 1 CPU, 0 GPUs answers 5" in outside.stdout, outside.stderr

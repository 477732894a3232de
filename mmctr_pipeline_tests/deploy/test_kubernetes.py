"""With the configuration of deploy/kubernetes, each step of a run is a job of its own.

Dagster, its Kubernetes client and PostgreSQL are real; the cluster is a stand-in (`cluster`).
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmctr_pipeline_tests.defs.running import PRESET, REPOSITORY
from mmctr_pipeline_tests.defs.test_definitions import CHECKS
from mmctr_pipeline_tests.defs.test_webserver import LAUNCH, STATUS, Webserver
from mmctr_pipeline_tests.deploy import dockerfile
from mmctr_pipeline_tests.deploy.cluster import Cluster, served
from mmctr_pipeline_tests.deploy.postgres import Postgres, postgres_binaries, postgres_server
from mmctr_pipeline_tests.deploy.test_kubernetes_files import KUBECONFIG, manifests, require_valid
from mmctr_pipeline_tests.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL is not installed"),
]

PASSWORD = "password-5d1c"
SECONDS = 900
ASSETS = ["image_embeddings", "train_dataset"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    binaries = postgres_binaries()
    assert binaries is not None
    with postgres_server(binaries, "dagster", PASSWORD, "dagster") as server:
        yield server


@pytest.fixture(scope="module")
def objects(
    postgres: Postgres, small_sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The objects of the manifests, with folders and ports of this machine."""
    root = tmp_path_factory.mktemp("kubernetes")
    for folder in ("logs", "dagster", "volume"):
        (root / folder).mkdir()
    (root / "preset.yaml").write_text(PRESET)
    places = {
        "/opt/mmctr/dagster": str(root / "dagster"),
        "/var/lib/mmctr": str(root / "volume"),
        "/data": str(small_sample),
        "host: code-server": "host: 127.0.0.1",
        "0.0.0.0": "127.0.0.1",
        "DAGSTER_POSTGRES_HOST: postgres": "DAGSTER_POSTGRES_HOST: 127.0.0.1",
        "5432": str(postgres.port),
        "4000": str(free_port()),
        "3000": str(free_port()),
        "similarity_attention": str(root / "preset.yaml"),
        # Outside of a cluster, its address comes from a file.
        "job_namespace: mmctr": "job_namespace: mmctr\n        load_incluster_config: false\n"
        f"        kubeconfig_file: {root / 'kubeconfig'}",
    }
    pattern = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return manifests(
        lambda text: re.sub(rf"(?<![\w.])(?:{pattern})(?!\w)", lambda match: places[match[0]], text)
    )


@pytest.fixture(scope="module")
def cluster(objects: list[dict[str, Any]]) -> Iterator[Cluster]:
    """A cluster with the deployments of the manifests running in it."""
    configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    home = Path(_deployment(objects, "daemon")["volumeMounts"][0]["mountPath"])
    for name, text in configs["dagster-instance"].items():
        (home / name).write_text(text)
    secret = {"DAGSTER_POSTGRES_PASSWORD": PASSWORD}
    variables = {
        ("ConfigMap", "mmctr-env"): configs["mmctr-env"],
        ("Secret", "mmctr-postgres"): secret,
        ("Secret", "mmctr-secrets"): {},
    }
    # A container has the variables of the image, not those of this machine.
    environment = {
        **{name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ},
        **dockerfile.environment(REPOSITORY / "Dockerfile"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DAGSTER_HOME": str(home),
        "MMCTR_STORAGE_DIR": str(home.with_name("volume") / "storage"),
        "HF_HOME": str(home.with_name("volume") / "huggingface"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("VIRTUAL_ENV")
    cluster = Cluster(variables, environment, home.with_name("logs"), require_valid)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(served(cluster))
        kubeconfig = {**KUBECONFIG, "clusters": [{"name": "none", "cluster": {"server": address}}]}
        home.with_name("kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        stack.callback(cluster.stop)
        migrate = _deployment(objects, "daemon", "initContainers")
        assert cluster.start("migrate", migrate).wait(SECONDS) == 0, cluster.log("migrate")
        for name in ("code-server", "webserver", "daemon"):
            cluster.start(name, _deployment(objects, name))
        yield cluster


def _deployment(
    objects: list[dict[str, Any]], name: str, field: str = "containers"
) -> dict[str, Any]:
    """Return the container of a deployment."""
    [found] = [o for o in objects if (o["kind"], o["metadata"]["name"]) == ("Deployment", name)]
    [container] = found["spec"]["template"]["spec"][field]
    return container


@pytest.fixture(scope="module")
def run_id(cluster: Cluster, objects: list[dict[str, Any]]) -> str:
    """The id of a run of some assets that was launched through the webserver."""
    port = _deployment(objects, "webserver")["ports"][0]["containerPort"]
    webserver = Webserver(f"http://127.0.0.1:{port}")
    selector = {
        "repositoryLocationName": "mmctr_pipeline",
        "repositoryName": "__repository__",
        "jobName": "full_pipeline",
        "assetSelection": [{"path": [name]} for name in ASSETS],
    }
    deadline = time.monotonic() + SECONDS
    launched: dict[str, Any] = {}
    while launched.get("__typename") != "LaunchRunSuccess":
        assert time.monotonic() < deadline, (launched, cluster.log("webserver"))
        time.sleep(2)
        # Until then, the webserver or the code server is still starting.
        with contextlib.suppress(OSError):
            params = {"selector": selector, "mode": "default"}
            launched = webserver.query(LAUNCH, params=params)["launchRun"]
    run_id = launched["run"]["runId"]
    status = ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, cluster.log("daemon")
        time.sleep(1)
        status = webserver.query(STATUS, runId=run_id)["runOrError"]["status"]
    assert cluster.refused == []
    assert status == "SUCCESS", [cluster.log(name) for name in cluster.jobs]
    return run_id


def test_a_run_and_each_of_its_steps_is_a_job(run_id: str, cluster: Cluster) -> None:
    def label(job: dict[str, Any], name: str) -> str | None:
        return job["metadata"]["labels"].get(name)

    jobs = cluster.jobs.values()
    workers = [job for job in jobs if label(job, "app.kubernetes.io/component") == "run_worker"]
    steps = {label(job, "dagster/op"): job for job in jobs if label(job, "dagster/op")}
    assert len(workers) == 1
    assert len(jobs) == 1 + len(steps)
    assert set(steps) == {name for asset in ASSETS for name in (asset, f"{asset}_checks")}
    limits = {
        name: job["spec"]["template"]["spec"]["containers"][0]["resources"].get("limits")
        for name, job in steps.items()
    }
    gpu = {"nvidia.com/gpu": "1"}
    assert {name for name, limit in limits.items() if limit == gpu} == {"image_embeddings"}


def test_no_job_shows_the_password_of_the_database(run_id: str, cluster: Cluster) -> None:
    assert PASSWORD not in str(cluster.jobs)
    for path in cluster.logs.iterdir():
        assert PASSWORD not in path.read_text(errors="replace")


def test_the_steps_share_the_volume_and_their_checks_are_recorded(
    run_id: str, cluster: Cluster, postgres: Postgres
) -> None:
    storage = Path(cluster.environment["MMCTR_STORAGE_DIR"])
    assert (storage / "image_embeddings.parquet").is_file()
    checked = postgres.rows(
        "SELECT asset_key, check_name FROM asset_check_executions "
        "WHERE run_id = %s AND execution_status = 'SUCCEEDED'",
        run_id,
    )
    assert set(checked) == {(f'["{asset}"]', name) for asset in ASSETS for name in CHECKS[asset]}

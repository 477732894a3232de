"""The manifest of the Ray cluster is valid and fits our other manifests and the pinned Ray."""

import copy
import json
import re
import socket
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mmctr_pipeline_tests.defs.running import REPOSITORY
from mmctr_pipeline_tests.deploy.test_kubernetes_files import instance, require_valid
from mmctr_pipeline_tests.ports import free_port
from mmctr_pipeline_tests.ray_cluster import ray_cluster

SCHEMA = json.loads((Path(__file__).parent / "raycluster.schema.json").read_text())


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "deploy" / "ray" / "raycluster.yaml").read_text())


def pod_specs(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_cluster_has_the_fields_of_kuberay(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, SCHEMA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "workerGroupSpecs", 0, "replica"), 2),
        (("spec", "authOptions", "mode"), "tokens"),
    ],
)
def test_the_schema_finds_a_mistake(
    cluster: dict[str, Any], place: tuple[str | int, ...], value: object
) -> None:
    changed: Any = copy.deepcopy(cluster)
    *parents, last = place
    part = changed
    for name in parents:
        part = part[name]
    part[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMA)


@pytest.mark.slow
def test_probes_ask_a_port_at_which_ray_answers(cluster: dict[str, Any]) -> None:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        port = int(group["rayStartParams"]["node-manager-port"])
        [container] = group["template"]["spec"]["containers"]
        for probe in ("livenessProbe", "readinessProbe"):
            assert container[probe]["tcpSocket"] == {"port": port}
    pytest.importorskip("ray")
    port = free_port()
    with ray_cluster(n_nodes=1, options=[f"--node-manager-port={port}"]) as running:
        socket.create_connection((running.head.address, port), 10).close()


def test_pods_are_valid_and_have_the_volumes_of_the_steps(cluster: dict[str, Any]) -> None:
    steps = instance()["run_launcher"]["config"]
    for spec in pod_specs(cluster):
        # A deployment has the same pod template, and its schema is known.
        labels = {"app": "ray"}
        template = {"metadata": {"labels": labels}, "spec": spec}
        require_valid(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "ray"},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            }
        )
        [container] = spec["containers"]
        for volume in steps["volumes"]:
            assert volume in spec["volumes"]
        for mount in steps["volume_mounts"]:
            assert mount in container["volumeMounts"]
        assert (
            spec["securityContext"]
            == (steps["run_k8s_config"]["pod_spec_config"]["securityContext"])
        )


def test_the_cluster_requires_a_token_and_the_pinned_ray(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    constraints = (REPOSITORY / "constraints.txt").read_text()
    [version] = re.findall(r"^ray==(.*)$", constraints, re.MULTILINE)
    assert cluster["spec"]["rayVersion"] == version

"""The manifests of deploy/kubernetes, and the jobs that Dagster creates, are valid and complete."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import kubernetes.client
import kubernetes_validate
import pytest
import yaml
from dagster._config import process_config
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job, get_user_defined_k8s_config
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs.executors import gpu_tags
from mmctr_pipeline_tests.defs.running import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
GPU_ASSETS = {
    *("text_embeddings", "image_embeddings", "fused_pca"),
    *("trained_model", "champion", "model_report", "submission_csv"),
}
MODELS = {
    "ConfigMap": kubernetes.client.V1ConfigMap,
    "Deployment": kubernetes.client.V1Deployment,
    "Job": kubernetes.client.V1Job,
    "Namespace": kubernetes.client.V1Namespace,
    "NetworkPolicy": kubernetes.client.V1NetworkPolicy,
    "PersistentVolumeClaim": kubernetes.client.V1PersistentVolumeClaim,
    "Role": kubernetes.client.V1Role,
    "RoleBinding": kubernetes.client.V1RoleBinding,
    "Service": kubernetes.client.V1Service,
    "ServiceAccount": kubernetes.client.V1ServiceAccount,
    "StatefulSet": kubernetes.client.V1StatefulSet,
}
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "current-context": "none",
}
SECRETS = {"mmctr-postgres", "mmctr-secrets"}
"""The secrets that docs/deploy.md creates."""


def manifests(change: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """Return every object that the kustomization lists, after changing the text of the files."""
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml"
    )
    texts = [change((FOLDER / name).read_text()) for name in listed]
    return [found for text in texts for found in yaml.safe_load_all(text)]


def instance() -> dict[str, Any]:
    """Return the content of dagster.yaml in its config map."""
    [config] = [m for m in manifests() if m["metadata"]["name"] == "dagster-instance"]
    return yaml.safe_load(config["data"]["dagster.yaml"])


def require_valid(manifest: dict[str, Any]) -> None:
    """Check an object against the schema of Kubernetes, and against the client's own types."""
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, version, strict=True)
    # Parses each field, and refuses names that the type does not have.
    model = MODELS[manifest["kind"]]
    k8s_model_from_dict(model, k8s_snake_case_dict(model, manifest))


def _pod_specs(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "template" in manifest.get("spec", {}):
        yield manifest["spec"]["template"]["spec"]


def test_every_manifest_is_valid() -> None:
    for manifest in manifests():
        require_valid(manifest)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "mmctr"


def test_a_misspelt_field_is_noticed() -> None:
    [deployment] = [m for m in manifests() if m["metadata"]["name"] == "daemon"]
    deployment["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        require_valid(deployment)


def _references(pod: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of everything that a pod needs."""
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        for source in container.get("envFrom", []):
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if field in source:
                    yield kind, source[field]["name"]
        for variable in container.get("env", []):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", secret["name"]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> K8sRunLauncher:
    """The run launcher with the configuration of dagster.yaml, outside a cluster."""
    kubeconfig = tmp_path_factory.mktemp("kube") / "config"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG))
    config = {
        **instance()["run_launcher"]["config"],
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
    }
    result = process_config(K8sRunLauncher.config_type(), config)
    assert result.success, result.errors
    return K8sRunLauncher.from_config_value(None, result.value)


def step_job(launcher: K8sRunLauncher, tags: dict[str, Any]) -> dict[str, Any]:
    """Return the job that the executor creates for a step with these op tags, as sent."""
    run = dg.DagsterRun(job_name="full_pipeline", run_id="0" * 8)
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=False).merge(
        K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags))
    )
    job = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config("mmctr-pipeline", launcher),
        args=["dagster", "api", "execute_step"],
        job_name="dagster-step-x",
        component="step_worker",
        user_defined_k8s_config=context.run_k8s_config,
    )
    return kubernetes.client.ApiClient().sanitize_for_serialization(job)


def _tags(name: str) -> dict[str, Any]:
    tags = defs.resolve_assets_def(name).op.tags
    # As Dagster hands them to the executor: every value is a text.
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in tags.items()
    }


@pytest.mark.parametrize("name", sorted(GPU_ASSETS | {"train_dataset"}))
def test_the_job_of_a_step_is_valid_and_asks_for_a_gpu_only_if_it_uses_one(
    name: str, launcher: K8sRunLauncher
) -> None:
    job = step_job(launcher, _tags(name))
    require_valid(job)
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"].get("limits") == (
        {"nvidia.com/gpu": "1"} if name in GPU_ASSETS else None
    )
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "8Gi"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
        *("/var/lib/mmctr", "/data"),
    }


def test_the_assets_that_ask_for_a_gpu_are_all_those_that_use_one() -> None:
    graph = defs.resolve_asset_graph()
    names = [key.to_user_string() for key in graph.materializable_asset_keys]
    assert {name for name in names if "mmctr/gpu" in _tags(name)} == GPU_ASSETS
    assert {name for name in names if "dagster-k8s/config" in _tags(name)} == GPU_ASSETS


def test_without_gpus_no_step_asks_for_one() -> None:
    assert gpu_tags("cpu") == {"mmctr/gpu": "true"}
    assert "dagster-k8s/config" in gpu_tags("auto")


def test_whatever_a_pod_needs_is_among_the_manifests(launcher: K8sRunLauncher) -> None:
    found = manifests()
    have = {(m["kind"], m["metadata"]["name"]) for m in found} | {("Secret", s) for s in SECRETS}
    jobs = [step_job(launcher, _tags(name)) for name in GPU_ASSETS]
    needed = {
        reference
        for manifest in (*found, *jobs)
        for pod in _pod_specs(manifest)
        for reference in _references(pod)
    }
    assert needed <= have
    assert ("PersistentVolumeClaim", "mmctr-data") in needed
    assert ("Secret", "mmctr-secrets") in needed


def test_no_pod_runs_as_root_or_may_become_root(launcher: K8sRunLauncher) -> None:
    pods = [
        pod
        for manifest in (*manifests(), step_job(launcher, _tags("trained_model")))
        for pod in _pod_specs(manifest)
    ]
    assert len(pods) == 5
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_runs_and_steps_use_the_image_of_the_code_server() -> None:
    [deployment] = [
        m
        for m in manifests()
        if (m["kind"], m["metadata"]["name"]) == ("Deployment", "code-server")
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "DAGSTER_CURRENT_IMAGE", "value": container["image"]}]


def test_the_instance_differs_from_that_of_a_single_host_only_in_its_run_launcher() -> None:
    single_host = REPOSITORY / "deploy" / "single_host" / "dagster.yaml"
    ours = instance()
    assert ours.pop("run_launcher")["class"] == "K8sRunLauncher"
    assert ours == yaml.safe_load(single_host.read_text())

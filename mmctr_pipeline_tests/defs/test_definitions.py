"""The definitions load completely and without heavy libraries; the asset graph is as designed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs import config
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.publishing.artefacts import ARTEFACTS
from mmctr_pipeline_tests.defs.running import REPOSITORY, in_process
from mmctr_pipeline_tests.hidden_packages import hide_packages

HEAVY = (
    *("torch", "sklearn", "open_clip", "sentence_transformers", "transformers", "matplotlib"),
    *("altair", "vl_convert"),
)
DEPLOYED = ("dagster_k8s", "kubernetes", "dagster_postgres", "s3fs", "botocore")
"""Packages that only some deployments need."""

_OF_MODEL = ["fused_pca", "image_embeddings", "text_embeddings", "train_dataset", "trained_model"]

GRAPH = {
    "fused_pca": (["image_embeddings", "interactions", "text_embeddings"], "pipeline"),
    "image_embeddings": (["item_feature", "item_images"], "pipeline"),
    "interactions": ([], "pipeline"),
    "item_feature": ([], "pipeline"),
    "item_images": ([], "pipeline"),
    "champion": (_OF_MODEL, "pipeline"),
    "model_report": (["champion", *_OF_MODEL], "pipeline"),
    "submission_csv": (
        ["champion", "fused_pca", "image_embeddings", "text_embeddings", "train_dataset"],
        "pipeline",
    ),
    "text_embeddings": (["item_feature"], "pipeline"),
    "train_dataset": (["interactions", "item_feature"], "pipeline"),
    "trained_model": (
        ["fused_pca", "image_embeddings", "text_embeddings", "train_dataset"],
        "pipeline",
    ),
}
SOURCES = ("interactions", "item_feature", "item_images")
CHECKS = {
    **{source: {"data_gate"} for source in SOURCES},
    "item_feature": {"data_gate", "preflight"},
    "fused_pca": {"shape", "finite_norms", "explained_variance"},
    "image_embeddings": {"shape", "finite_norms", "norm_outliers", "image_coverage"},
    "submission_csv": {"submission_valid", "score_drift"},
    "text_embeddings": {"shape", "finite_norms", "norm_outliers"},
    "train_dataset": {
        "id_ranges",
        "label_values",
        "target_in_history",
        "user_overlap",
        "unseen_values",
    },
    "trained_model": {"auc_floor"},
    "champion": {"challenger_promoted"},
}


def test_asset_graph_is_as_designed() -> None:
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): (
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            graph.get(key).group_name,
        )
        for key in graph.get_all_asset_keys()
    }
    assert found == GRAPH
    checks: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        checks.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert checks == CHECKS


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_has_description_owner_kinds_and_code_version(name: str) -> None:
    spec = defs.resolve_asset_graph().get(dg.AssetKey(name))
    assert spec.description
    assert spec.owners == ["team:mmctr"]
    assert spec.kinds
    assert spec.code_version or name in SOURCES


def test_gpu_assets_carry_the_gpu_tag() -> None:
    for name in (
        "text_embeddings",
        "image_embeddings",
        "fused_pca",
        "trained_model",
        "champion",
        "model_report",
        "submission_csv",
    ):
        assets = defs.resolve_assets_def(name)
        assert assets.op.tags["mmctr/gpu"] == "true"


def test_every_asset_that_is_stored_is_also_published() -> None:
    graph = defs.resolve_asset_graph()
    stored = [key.to_user_string() for key in graph.materializable_asset_keys]
    assert sorted(stored) == sorted(ARTEFACTS)


def test_sources_are_observable() -> None:
    graph = defs.resolve_asset_graph()
    for name in SOURCES:
        assert graph.get(dg.AssetKey(name)).is_observable


def test_loading_the_definitions_imports_no_heavy_library() -> None:
    code = (
        "import sys, mmctr_pipeline.definitions; "
        f"print([name for name in {(*HEAVY, *DEPLOYED)!r} if name in sys.modules])"
    )
    result = _python("-c", code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
    assert "export DAGSTER_HOME" in result.stderr


UNUSABLE = [
    ({"MMCTR_PRESET": "sampel"}, ["sampel", "improved_mmctr", "text_only"]),
    ({"MMCTR_EXECUTOR": "threads"}, ["threads", "multiprocess", "in_process", "k8s"]),
    ({"MMCTR_EXECUTOR": "k8s"}, ["dagster-k8s is not installed"]),
    ({"MMCTR_DEVICE": "gpu"}, ["gpu", "auto", "cpu", "cuda:N"]),
    ({"MMCTR_PUBLISH_URL": "s3://me:word@bucket"}, ["MMCTR_PUBLISH_URL", "password"]),
    ({"MMCTR_TIMEZONE": "Mars/Base"}, ["MMCTR_TIMEZONE", "Mars/Base"]),
    ({"MMCTR_CRON": "0 25 * * *"}, ["MMCTR_CRON", "0 25 * * *", "hour"]),
    ({"MMCTR_CRON": "* * * * * *"}, ["MMCTR_CRON", "five fields"]),
    ({"MMCTR_NIGHTLY": "yes"}, ["MMCTR_NIGHTLY", "yes", "cron, changes"]),
    ({"MMCTR_DATA_DIR": "."}, ["MMCTR_PRESET", "improved_mmctr", "text_only"]),
    ({"MMCTR_DATA_DIR": "/no/such/folder", "MMCTR_PRESET": "text_only"}, ["/no/such/folder"]),
]
"""Environment variables that the definitions refuse, with words of the error message."""

LOAD_WITH_EACH = (
    hide_packages("dagster_k8s")
    + """
import json, os, sys
errors = []
for variables, _ in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.startswith("mmctr_pipeline")]:
        del sys.modules[name]
    os.environ.update(variables)
    try:
        import mmctr_pipeline.definitions
    except ValueError as error:
        errors.append(str(error))
    for name in variables:
        del os.environ[name]
print(json.dumps(errors))
"""
)


@pytest.mark.slow
def test_an_unusable_environment_is_refused_with_the_cause_or_the_choices() -> None:
    result = _python("-c", LOAD_WITH_EACH, json.dumps(UNUSABLE))
    assert result.returncode == 0, result.stderr
    errors = json.loads(result.stdout)
    assert len(errors) == len(UNUSABLE)
    for (_, words), error in zip(UNUSABLE, errors, strict=True):
        for word in words:
            assert word in error


LIST_AUTOMATION_WITH_EACH = """
import json, os, sys
found = []
for variables in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.startswith("mmctr_pipeline")]:
        del sys.modules[name]
    os.environ.update(variables)
    from mmctr_pipeline.definitions import defs
    repository, graph = defs.get_repository_def(), defs.resolve_asset_graph()
    ticking = [*repository.schedule_defs, *repository.sensor_defs]
    keys = [*graph.get_all_asset_keys(), *graph.asset_check_keys]
    found.append([
        {each.name: each.default_status.value == "RUNNING" for each in ticking},
        [key.to_user_string() for key in keys if graph.get(key).automation_condition],
        [each.cron_schedule for each in repository.schedule_defs],
    ])
    for name in variables:
        del os.environ[name]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_one_variable_chooses_the_schedule_or_the_automation() -> None:
    variables = [
        {},
        {"MMCTR_NIGHTLY": "cron", "MMCTR_CRON": "30 4 * * 1"},
        {"MMCTR_NIGHTLY": "changes"},
    ]
    result = _python("-c", LIST_AUTOMATION_WITH_EACH, json.dumps(variables))
    assert result.returncode == 0, result.stderr
    unset, cron, changes = json.loads(result.stdout)
    automated = {*GRAPH, *(f"{name}:data_gate" for name in SOURCES), "item_feature:preflight"}
    off = {"nightly": False, "nightly_if_changed": False, "failed_runs": False, "dead_runs": True}
    assert (unset[0], set(unset[1]), unset[2]) == (off, automated, ["0 2 * * *"])
    # Dagster would start a sensor of its own for conditions that no sensor evaluates.
    on = {"nightly": True, "failed_runs": True, "dead_runs": True}
    assert cron == [on, [], ["30 4 * * 1"]]
    on = {"nightly_if_changed": True, "failed_runs": True, "dead_runs": True}
    assert (changes[0], set(changes[1]), changes[2]) == (on, automated, [])


def test_a_preset_file_changes_the_defaults_of_the_run_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("extends: sample\ntraining: {batch_size: 333}\n")
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    deployment = Deployment.from_environment()
    monkeypatch.setattr(config, "deployment_preset", lambda: load_preset(preset_name(deployment)))
    assert config.asset_config("trained_model")().resolved["training"]["batch_size"] == 333


@pytest.mark.slow
def test_exactly_one_code_location_loads(tmp_path: Path) -> None:
    validate = _python("-m", "dagster", "definitions", "validate", home=tmp_path)
    assert validate.returncode == 0, validate.stdout + validate.stderr
    log = validate.stdout + validate.stderr
    assert log.count("Validation successful for code location mmctr_pipeline") == 1, log
    check = _run(str(Path(sys.executable).parent / "dg"), "check", "defs", home=tmp_path)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "All definitions loaded successfully" in check.stdout + check.stderr


def test_the_data_version_of_a_source_changes_only_with_its_content(
    small_sample: Path, tmp_path: Path
) -> None:
    def observed(data: Path) -> dict[str, str | None]:
        job = in_process(data, tmp_path, dg.AssetSelection.assets(*SOURCES).without_checks())
        result = job.execute_in_process()
        observations = {
            name: result.asset_observations_for_node(f"observe_{name}")[0] for name in SOURCES
        }
        return {name: observation.data_version for name, observation in observations.items()}

    first = observed(small_sample)
    assert all(first.values())
    copy = shutil.copytree(small_sample, tmp_path / "copy")
    image = sorted((copy / "item_images").iterdir())[0]
    image.write_bytes(image.read_bytes() + b"!")
    changed = observed(copy)
    # The copy differs in one image only, so the other versions are equal.
    assert changed.pop("item_images") != first.pop("item_images")
    assert changed == first


def _python(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, *arguments, home=home)


def _run(*command: str, home: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    if home is not None:
        environment["DAGSTER_HOME"] = str(home)
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )

"""The definitions load fast and whole, and the asset graph is the one that was designed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.definitions import defs
from mmctr_pipeline_tests.defs.running import in_process

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "sklearn", "open_clip", "sentence_transformers", "transformers", "matplotlib")

GRAPH = {
    "fused_pca": (["image_embeddings", "interactions", "text_embeddings"], "encoding"),
    "image_embeddings": (["item_feature", "item_images"], "encoding"),
    "interactions": ([], "sources"),
    "item_feature": ([], "sources"),
    "item_images": ([], "sources"),
    "submission_csv": (
        [
            "fused_pca",
            "image_embeddings",
            "text_embeddings",
            "train_dataset",
            "trained_model",
        ],
        "submission",
    ),
    "text_embeddings": (["item_feature"], "encoding"),
    "train_dataset": (["interactions", "item_feature"], "training"),
    "trained_model": (
        ["fused_pca", "image_embeddings", "text_embeddings", "train_dataset"],
        "training",
    ),
}
CHECKS = {
    "fused_pca": {"shape", "finite_norms", "explained_variance"},
    "image_embeddings": {"shape", "finite_norms", "image_coverage"},
    "submission_csv": {"submission_valid"},
    "text_embeddings": {"shape", "finite_norms"},
    "train_dataset": {"id_ranges", "label_values", "target_in_history", "user_overlap"},
    "trained_model": {"auc_floor"},
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
def test_every_asset_is_described_owned_and_marked(name: str) -> None:
    spec = defs.resolve_asset_graph().get(dg.AssetKey(name))
    assert spec.description
    assert spec.owners == ["team:mmctr"]
    assert spec.kinds
    assert spec.code_version or name in ("item_feature", "item_images", "interactions")


def test_gpu_assets_carry_the_gpu_tag() -> None:
    for name in (
        "text_embeddings",
        "image_embeddings",
        "fused_pca",
        "trained_model",
        "submission_csv",
    ):
        assets = defs.resolve_assets_def(name)
        assert assets.op.tags["mmctr/gpu"] == "true"


def test_sources_are_observable() -> None:
    graph = defs.resolve_asset_graph()
    for name in ("item_feature", "item_images", "interactions"):
        assert graph.get(dg.AssetKey(name)).is_observable


def test_loading_the_definitions_leaves_heavy_libraries_out() -> None:
    code = (
        "import sys, mmctr_pipeline.definitions; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = _python("-c", code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_exactly_one_code_location_loads(tmp_path: Path) -> None:
    validate = _python("-m", "dagster", "definitions", "validate", cwd=REPOSITORY, home=tmp_path)
    assert validate.returncode == 0, validate.stdout + validate.stderr
    log = validate.stdout + validate.stderr
    assert log.count("Validation successful for code location mmctr_pipeline") == 1, log
    check = subprocess.run(
        [str(Path(sys.executable).parent / "dg"), "check", "defs"],
        cwd=REPOSITORY,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert "All definitions loaded successfully" in check.stdout + check.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MMCTR_PRESET": "sampel"}, ["sampel", "improved_mmctr", "text_only"]),
        ({"MMCTR_EXECUTOR": "threads"}, ["threads", "multiprocess", "in_process", "k8s"]),
        ({"MMCTR_DEVICE": "gpu"}, ["gpu", "auto", "cpu", "cuda:N"]),
        ({"MMCTR_TIMEZONE": "Mars/Base"}, ["MMCTR_TIMEZONE", "Mars/Base"]),
        ({"MMCTR_DATA_DIR": "."}, ["MMCTR_PRESET", "improved_mmctr", "text_only"]),
        ({"MMCTR_DATA_DIR": "/no/such/folder", "MMCTR_PRESET": "text_only"}, ["/no/such/folder"]),
    ],
)
def test_unusable_environment_is_refused_with_what_is_known(
    variables: dict[str, str], words: list[str]
) -> None:
    result = _python("-c", "import mmctr_pipeline.definitions", **variables)
    assert result.returncode != 0
    for word in words:
        assert word in result.stderr


def test_a_preset_file_of_two_lines_changes_the_default(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("extends: sample\ntraining: {batch_size: 333}\n")
    code = (
        "import json; from mmctr_pipeline.defs.config import asset_config; "
        "print(json.dumps(asset_config('trained_model')().resolved))"
    )
    result = _python("-c", code, MMCTR_PRESET=str(preset))
    assert json.loads(result.stdout)["training"]["batch_size"] == 333


def test_without_dagster_home_it_says_how_to_set_it() -> None:
    assert "export DAGSTER_HOME" in _python("-c", "import mmctr_pipeline.definitions").stderr


def _environment(home: Path | None = None, **variables: str) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"} | variables
    if home is not None:
        environment["DAGSTER_HOME"] = str(home)
    return environment


def _python(
    *arguments: str, cwd: Path | None = None, home: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=_environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_sources_are_observed_by_the_hash_of_their_content(
    small_sample: Path, tmp_path: Path
) -> None:
    def observed(data: Path) -> dict[str, str]:
        names = ("item_feature", "item_images", "interactions")
        job = in_process(data, tmp_path, dg.AssetSelection.assets(*names))
        with dg.instance_for_test() as instance:
            assert job.execute_in_process(instance=instance).success
            versions = {}
            for name in names:
                event = instance.get_latest_data_version_record(dg.AssetKey(name))
                assert event is not None
                observation = event.asset_observation
                assert observation is not None
                versions[name] = observation.data_version
            return versions

    first = observed(small_sample)
    copy = tmp_path / "copy"
    shutil.copytree(small_sample, copy)
    assert observed(copy) == first, "a copy has the same content"
    image = sorted((copy / "item_images").iterdir())[0]
    image.write_bytes(image.read_bytes() + b"!")
    changed = observed(copy)
    assert changed["item_images"] != first["item_images"]
    assert {k: v for k, v in changed.items() if k != "item_images"} == {
        k: v for k, v in first.items() if k != "item_images"
    }

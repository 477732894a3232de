"""A run config file with a key set twice or a wrong value is refused before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.defs.run_config_files import check_run_config_files
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.defs.running import Deployment

LEARNING_RATE = load_preset("sample").training.learning_rate
TRAINED_MODEL = "ops: {trained_model: {config: {%s}}}"
BAD = {
    "key set twice": (
        "ops:\n  trained_model:\n    config: {training: {seed: 1}}\n  trained_model: {}\n",
        "mine.yaml, line 4: trained_model is set twice, first in line 2",
    ),
    "seed": (
        TRAINED_MODEL % "training: {seed: 1180591620717411303424}",
        "training.seed is 11805916",
    ),
    "batch size": (
        TRAINED_MODEL % "training: {batch_size: 1000000000000}",
        "training.batch_size is",
    ),
    "infinite rate": (
        TRAINED_MODEL % "training: {learning_rate: .inf}",
        "training.learning_rate is inf",
    ),
    "boolean": (
        TRAINED_MODEL % "training: {max_epochs: true}",
        "training.max_epochs is True; expected",
    ),
    "together with the preset": (
        TRAINED_MODEL % "training: {weight_decay: 900.0}",
        f"training.weight_decay is 900.0; times learning_rate ({LEARNING_RATE}) it must be below 1",
    ),
    "width": (
        TRAINED_MODEL % "model: {din: {hidden_dims: [99999999]}}",
        "model.hidden_dims is 99999999",
    ),
    "nested": (
        TRAINED_MODEL % "model: {din: {features: {embedding_dim: 0}}}",
        "model.features.embedding_dim is 0; it must be >= 1 and <= 8192",
    ),
    "encoder": (
        "ops: {text_embeddings: {config: {encoder: {batch_tokens: -1}}}}",
        "encoders.text.batch_tokens is -1",
    ),
    "check": (
        "ops: {train_dataset: {config: {checks: {max_target_in_history: 2}}}}",
        "checks.max_target_in_history is 2.0; it must be >= 0 and <= 1",
    ),
}
COMMANDS = (
    ["dagster", "asset", "materialize", "-c"],
    ["/x/bin/dg", "launch", "--config"],
    ["/x/site-packages/dagster/__main__.py", "job", "execute", "-c"],
)


def write_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_and_named(name: str, tmp_path: Path) -> None:
    text, problem = BAD[name]
    path = write_file(tmp_path, text)
    for command in COMMANDS:
        with pytest.raises(SettingsError) as error:
            check_run_config_files([*command, path])
        assert str(error.value).startswith(path)
        assert problem in str(error.value)
    with pytest.raises(SettingsError):
        check_run_config_files(["dagster", f"--config={tmp_path}/*.yaml"])


def test_good_files_missing_files_and_other_commands_pass(tmp_path: Path) -> None:
    good = write_file(tmp_path, TRAINED_MODEL % "model: {din: {dropout: 0.5}}, training: {seed: 3}")
    check_run_config_files(["dagster", "asset", "materialize", "-c", good])
    bad = write_file(tmp_path, "a: 1\na: 2\n")
    for arguments in ([], ["pytest", "-c", bad], ["dagster", "-c", "none.yaml"], ["dagster", "-c"]):
        check_run_config_files(arguments)


@pytest.mark.slow
def test_dagster_refuses_a_bad_file_before_a_run(tmp_path: Path) -> None:
    path = write_file(tmp_path, BAD["key set twice"][0])
    deployment = Deployment(tmp_path, tmp_path)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize", "--select", "trained_model"),
            *("-m", "mmctr_pipeline.definitions", "-c", path),
        ],
        env=deployment.environment(MMCTR_PRESET="sample"),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert f"{path}, line 4: trained_model is set twice" in result.stderr + result.stdout

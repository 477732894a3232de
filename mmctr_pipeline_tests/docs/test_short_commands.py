"""The documents' commands that take less than a minute do what they say, as they are written."""

import shlex
import shutil
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.docs.test_commands import DOCUMENTS, commands

SHORT = (
    "accept",
    "check",
    "models list",
    "prune",
    "reap",
    "recommend",
    "score",
    "settings",
    "tensorboard",
)
"""Commands of `mmctr` that any storage folder with a model can run."""


def _short_commands() -> list[str]:
    found = {
        shlex.join(arguments)
        for document in DOCUMENTS
        if document.name not in ("benchmarks.md", "reliability.md")
        for program, *arguments in commands(document.read_text(encoding="utf-8"))
        if program == ".venv/bin/mmctr" and " ".join(arguments).startswith(SHORT)
    }
    return sorted(found)


@pytest.fixture(scope="module")
def storage(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return shutil.copytree(
        finished_run.deployment.storage, tmp_path_factory.mktemp("copy") / "storage", symlinks=True
    )


@pytest.mark.parametrize("command", _short_commands())
def test_a_short_command_of_the_documents_succeeds(
    command: str,
    finished_run: FinishedRun,  # noqa: F811
    storage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = finished_run.deployment.environment() | {"MMCTR_STORAGE_DIR": str(storage)}
    for name in (
        "DAGSTER_HOME",
        "MMCTR_DATA_DIR",
        "MMCTR_DEVICE",
        "MMCTR_PRESET",
        "MMCTR_STORAGE_DIR",
    ):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.chdir(tmp_path)
    shutil.copy(find_data(finished_run.deployment.data).test, "rows.parquet")
    assert main(shlex.split(command)) == 0


def test_every_kind_of_short_command_occurs_in_the_documents() -> None:
    for kind in SHORT:
        assert any(command.startswith(kind) for command in _short_commands()), kind

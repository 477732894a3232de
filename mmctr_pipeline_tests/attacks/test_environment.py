"""Secrets in the environment reach no file and no output of a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.defs.running import SECRETS


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_artefact_log_or_database(
    name: str,
    finished_run: FinishedRun,  # noqa: F811
) -> None:
    folder, secret = finished_run.deployment.folder, SECRETS[name]
    assert secret not in finished_run.log
    assert [str(path) for path, content in _files(folder) if secret.encode() in content] == []


@pytest.mark.parametrize(
    ("recorded", "suffixes"),
    [("preset.yaml", {".pt", ".md", ".txt"}), ("storage", {".db", ".json", ".txt"})],
)
def test_the_search_finds_values_that_are_recorded_on_purpose(
    recorded: str,
    suffixes: set[str],
    finished_run: FinishedRun,  # noqa: F811
) -> None:
    folder = finished_run.deployment.folder
    value = str(folder / recorded).encode()
    assert {path.suffix for path, content in _files(folder) if value in content} >= suffixes

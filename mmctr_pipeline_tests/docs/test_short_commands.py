"""The documents' commands that take less than a minute do what they say, as they are written."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline_tests.data.convert.downloads import (
    drawn_pairs,
    drawn_ratings,
    write_microlens,
    write_movielens_1m,
)
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.docs.test_commands import DOCUMENTS, REPOSITORY, block_commands
from mmctr_pipeline_tests.make import make_environment

SHORT = (
    "dagster asset materialize",
    "make help",
    "mmctr accept",
    "mmctr atlas",
    "mmctr check",
    "mmctr convert",
    "mmctr export",
    "mmctr models list",
    "mmctr prune",
    "mmctr pull",
    "mmctr push",
    "mmctr reap",
    "mmctr recommend",
    "mmctr sample",
    "mmctr score",
    "mmctr settings",
    "mmctr tensorboard",
)
"""First words of the commands that run here, on the storage folder of a finished run."""

SLOW = ("dagster asset materialize", "mmctr export", "mmctr sample FOLDER", "mmctr sample logs")

NOT_RUN = {
    "'$EDITOR'": "an editor",
    "cd": "the commands after it count",
    "chmod 600 .env": "deploy/test_single_host_files.py reads the example",
    "cp .env.example .env": "deploy/test_single_host_files.py reads the example",
    "curl localhost:8000/score": "serving/test_http_example.py",
    "dagster job backfill": "defs/test_backfill.py",
    "docker": "needs Docker; deploy/test_image.py and deploy/test_single_host.py do without",
    "embedding-atlas": "a server, and not in the extra dev; reporting/test_atlas.py",
    "git pull": "needs a network",
    "kubectl": "needs a cluster; deploy/test_kubernetes.py",
    "make ablation": "hours; cli/test_comparisons.py",
    "make check": "a minute of lint and types, before the tests",
    "make demo": "a minute or two; defs/test_run.py",
    "make install": "needs a network; test_makefile.py",
    "make pictures": "minutes; defs/test_ui.py drives the same browser",
    "make run": "minutes to hours; defs/test_run.py",
    "make site": "docs/test_site.py",
    "make test": "these tests",
    "make test-all": "these tests",
    "make ui": "a server; defs/test_webserver.py",
    "mmctr fusions": "hours; cli/test_comparisons.py",
    "mmctr leaderboard": "hours; cli/test_leaderboard.py",
    "mmctr models promote": "needs two models; cli/test_models.py",
    "mmctr models rollback": "needs two models; cli/test_models.py",
    "mmctr sample FOLDER --scale 90": "minutes, and gigabytes of covers; cli/test_sample.py",
    "printf": "its run takes a minute; defs/test_champion.py",
    "python -m benchmarks.": "minutes to hours; benchmarks/ has tests of their parts",
    "ray start": "needs several machines; training/test_on_ray.py",
    "sed -i": "docs/test_deploy.py",
    "tail": "the run before it takes a minute; defs/test_champion.py",
    "tensorboard": "a server; cli/test_tensorboard.py",
    "uvicorn": "a server; serving/test_http_example.py",
}
"""First words of the other commands, each with the reason or with the test that does more."""


def _documented() -> list[str]:
    """Return the distinct commands in the documents' blocks, in order, programs without folder."""
    found = [
        shlex.join([Path(program).name, *arguments])
        for document in DOCUMENTS
        for program, *arguments in block_commands(document.read_text(encoding="utf-8"))
    ]
    return list(dict.fromkeys(found))


def _begins(command: str, beginning: str) -> bool:
    return f"{command} ".startswith(beginning if beginning.endswith(".") else f"{beginning} ")


def _runs(command: str) -> bool:
    return any(_begins(command, each) for each in SHORT) and not _reasons(command)


def _reasons(command: str) -> list[str]:
    return [each for each in NOT_RUN if _begins(command, each)]


@pytest.fixture(scope="module")
def variables(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Return the environment of a machine with a finished run and a store to publish at."""
    folder = tmp_path_factory.mktemp("machine")
    url = f"file://{folder}/published"
    return finished_run.copy(folder).environment(MMCTR_PUBLISH_URL=url)


@pytest.fixture
def home(
    variables: dict[str, str],
    finished_run: FinishedRun,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return the current folder, with the files that the documents call the reader's own."""
    for name in variables:
        monkeypatch.setenv(name, variables[name])
    monkeypatch.chdir(tmp_path)
    shutil.copy(find_data(finished_run.deployment.data).test, "rows.parquet")
    shutil.copy(finished_run.deployment.storage / "run_config.yaml", "mine.yaml")
    write_movielens_1m(tmp_path / "ml-1m", drawn_ratings())
    write_microlens(tmp_path / "MicroLens-100k", drawn_pairs())
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            command,
            marks=[pytest.mark.slow] if any(_begins(command, each) for each in SLOW) else [],
        )
        for command in _documented()
        if _runs(command)
    ],
)
def test_a_short_command_of_the_documents_succeeds(command: str, home: Path) -> None:
    if "--compile" in command and shutil.which("g++") is None:
        pytest.skip("needs g++")
    program, *arguments = shlex.split(command.replace("~/", f"{home}/"))
    if program == "mmctr":
        assert main(arguments) == 0
    elif program == "make":
        result = subprocess.run([program, *arguments], cwd=REPOSITORY, env=make_environment())
        assert result.returncode == 0
    else:
        result = subprocess.run([sys.executable, "-m", program, *arguments])
        assert result.returncode == 0


def test_each_command_of_the_documents_runs_here_or_has_a_reason() -> None:
    undecided = [each for each in _documented() if not _runs(each) and not _reasons(each)]
    # If it is output: begin its block with ```text.
    assert undecided == []


def test_each_beginning_of_a_command_occurs_in_the_documents() -> None:
    documented = _documented()
    for beginning in SHORT:
        assert any(_begins(each, beginning) and _runs(each) for each in documented), beginning
    for beginning in (*SLOW, *NOT_RUN):
        assert any(_begins(each, beginning) for each in documented), beginning


def test_the_tests_that_reasons_name_exist() -> None:
    tests = REPOSITORY / "mmctr_pipeline_tests"
    named = {word for reason in NOT_RUN.values() for word in reason.split() if "test_" in word}
    assert named
    assert {name for name in named if not (tests / name.rstrip(";,")).is_file()} == set()

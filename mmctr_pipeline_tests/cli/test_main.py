"""The command `mmctr` has help and exit statuses, and prints errors in one line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main

BAD_NAMES = [
    *("../x", "..", ".", ".hidden", "/tmp/x", "a/b", "a\\b", "", " ", "-x", "x" * 101),
    *("a\0b", "a\nb", "naïve", "a*b", "~", "$HOME"),
]


def test_help_lists_the_commands_without_importing_torch_or_dagster() -> None:
    code = (
        "import sys; from mmctr_pipeline.cli.main import main; status = main(['--help']); "
        "sys.exit('slow import' if {'torch', 'dagster'} & sys.modules.keys() else status)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    commands = (
        "sample",
        "convert",
        "ablation",
        "fusions",
        "leaderboard",
        "repeat",
        "check",
        "accept",
    )
    for command in (*commands, "models", "prune", "reap", "push", "pull"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-command"], "No such command"),
        (["sample"], "Missing argument 'FOLDER'"),
        (["fusions", "--seeds", "1"], "2<=x<=10"),
        (["leaderboard", "--seeds", "11"], "1<=x<=10"),
        (["leaderboard", "--minutes", "-1"], "not a number of minutes"),
        (["leaderboard", "--minutes", "nan"], "not a number of minutes"),
        (["leaderboard", "--minutes", "inf"], "not a number of minutes"),
        *((["leaderboard", "--name", name], "cannot name files") for name in BAD_NAMES),
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["prune"], ["leaderboard", "sample"], ["ablation"], ["fusions"]]
)
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/mmctr"])
def test_an_unusable_storage_folder_is_named_in_one_line(
    command: list[str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine")
    storage = tmp_path / place
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(storage))
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write {storage}: ")
    assert f"set MMCTR_STORAGE_DIR (now {storage}) to another folder" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_ctrl_c_ends_a_command_with_status_130_and_one_line(tmp_path: Path) -> None:
    arguments = ["sample", str(tmp_path / "data"), "--scale", "90"]
    with subprocess.Popen(
        [sys.executable, "-m", "mmctr_pipeline.cli.main", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "91," in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        lines = [line for line in process.stderr if line.strip()]
        assert lines == ["Stopped. The same command resumes what it can.\n"]
        assert process.wait(timeout=20) == 130
    assert list((tmp_path / "data").iterdir()) == []

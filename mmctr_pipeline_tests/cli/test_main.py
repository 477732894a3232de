"""The command group: help, exit statuses and errors in one line."""

import subprocess
import sys

import pytest

from mmctr_pipeline.cli.main import main


def test_help_lists_the_commands_without_importing_torch() -> None:
    code = (
        "import sys; from mmctr_pipeline.cli.main import main; status = main(['--help']); "
        "sys.exit(f'slow imports' if 'torch' in sys.modules else status)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("sample", "ablation", "fusions", "leaderboard", "prune"):
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
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err

"""`mmctr convert` writes a data folder, or says what is wrong."""

import resource
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


@pytest.mark.parametrize("name", ["movielens", "microlens"])
def test_it_writes_a_data_folder_beside_the_download(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    if name == "movielens":
        write_movielens_1m(raw, drawn_ratings())
    else:
        write_microlens(raw, drawn_pairs())
    assert main(["convert", name, str(raw), "--max-users", "9", "--held-out", "0.2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == f"MMCTR_DATA_DIR={tmp_path / 'raw-converted'}"
    assert "9 of " in err
    assert "train.parquet: " in err
    find_data(tmp_path / "raw-converted")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "MovieLensConfig.seed is -1; it must be >= 0"),
        (["--held-out", "0.5"], "MovieLensConfig.held_out is 0.5; it must be"),
        (["--posters", "nowhere"], "nowhere is not a folder"),
        (["--output", "raw"], "raw holds movies.dat, ratings.dat, users.dat, which no conversion"),
        (["--output", "file"], "file holds file, which no conversion wrote"),
        (["--output", "file/below"], "cannot write"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_movielens_1m(tmp_path / "raw", drawn_ratings())
    Path("file").write_text("mine")
    assert main(["convert", "movielens", "raw", *arguments]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "raw"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    raw = write_movielens_1m(tmp_path / "raw", drawn_ratings(n_users=300))
    command = [sys.executable, "-m", "mmctr_pipeline.cli.main", "convert", "movielens", str(raw)]
    result = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path / 'raw-converted'}: File too large. Fix")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]

"""Folders that cannot be written to are refused with the path, the variable and a fix."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.writable import require_writable


def test_a_folder_is_created_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("below", ["", "/deeper", "/deeper/still"])
def test_a_file_where_the_folder_should_be_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    folder = Path(f"{tmp_path / 'file'}{below}")
    with pytest.raises(WriteError, match="Not a directory") as error:
        require_writable(folder, "MMCTR_STORAGE_DIR")
    assert f"cannot write {folder}: " in str(error.value)
    assert "set MMCTR_STORAGE_DIR (now unset) to another folder" in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("folder", ["/proc/mmctr", "/sys/mmctr"])
def test_a_file_system_that_allows_no_new_folders_is_named(folder: str) -> None:
    with pytest.raises(WriteError, match=rf"cannot write {folder}.* Fix: ") as error:
        require_writable(Path(folder))
    assert "or name another place" in str(error.value)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from mmctr_pipeline.files.writable import require_writable; "
        f"require_writable(pathlib.Path({str(tmp_path)!r}), 'DAGSTER_HOME')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        capture_output=True,
        text=True,
    )
    last = result.stderr.splitlines()[-1]
    assert f"cannot write {tmp_path}: File too large. Fix: raise the limit" in last
    assert "or set DAGSTER_HOME" in last
    assert list(tmp_path.iterdir()) == []

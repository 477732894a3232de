"""Writers name the file and the reason if the disk or permissions prevent a write."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline.files.atomic import atomic_folder, atomic_symlink, atomic_write, write_text
from mmctr_pipeline.files.errors import WriteError, naming_write_errors
from mmctr_pipeline.files.locks import locked

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
import polars as pl
import pyarrow as pa
import torch
from mmctr_pipeline.defs.io_managers import ParquetIOManager
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import WriteError
from mmctr_pipeline.files.parquet import write_parquet
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.files.tensors import save_tensors

folder, numbers = Path(sys.argv[1]), np.random.default_rng(0).random(50_000)
frame = pl.DataFrame({"x": numbers})

def atomically(write):
    def write_atomically(path):
        with atomic_write(path) as temporary:
            write(temporary)
    return write_atomically

WRITERS = {
    "text": atomically(lambda path: path.write_text("x" * 100_000)),
    "record": lambda path: write_record(path, {"x": "x" * 100_000}),
    "tensors": atomically(lambda path: save_tensors(path, {"w": torch.zeros(100_000)})),
    "arrow": atomically(lambda path: write_parquet(pa.table({"x": numbers}), path)),
    "polars": lambda path: ParquetIOManager(storage_dir=str(folder)).write(frame, path),
    "lazy": lambda path: ParquetIOManager(storage_dir=str(folder)).write(frame.lazy(), path),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for name, write in WRITERS.items():
    try:
        write(folder / name)
    except WriteError as error:
        print(name, error)
"""
WRITERS = ("text", "record", "tensors", "arrow", "polars", "lazy")


@pytest.fixture(name="lines", scope="module")
def lines_of_failed_writes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run all writers in a process whose files cannot grow, as on a full disk."""
    folder = tmp_path_factory.mktemp("full")
    for name in WRITERS:
        (folder / name).write_text("earlier")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder, result.stdout.splitlines()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_with_the_file(writer: str, lines: tuple[Path, list[str]]) -> None:
    folder, printed = lines
    expected = f"{writer} cannot write {folder / writer}: File too large"
    assert any(line.startswith(expected) for line in printed)
    assert (folder / writer).read_text() == "earlier"
    assert sorted(os.listdir(folder)) == sorted(WRITERS)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, r"No space left on device \(.* MB are free there\)"),
        (errno.EDQUOT, r"Disk quota exceeded \(.* MB are free there\)"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_error_while_writing_names_file_and_reason(
    number: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, os.strerror(number))

    with pytest.raises(WriteError, match=rf"^cannot write {path}: {reason}\. ") as raised:
        fail()
    assert raised.value.errno == number
    assert os.listdir(tmp_path) == []


def test_errors_about_other_files_and_other_errors_pass_unchanged(tmp_path: Path) -> None:
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/somewhere/else"),
        ConnectionError("not about files"),
        ValueError("not an OSError"),
    ):
        with pytest.raises(type(error)) as raised, naming_write_errors(tmp_path / "a" / "b"):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("kind", ["file", "folder", "link", "text", "lock"])
def test_a_file_in_place_of_a_folder_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "artefact"

    def write() -> None:
        if kind == "file":
            with atomic_write(path) as temporary:
                temporary.write_text("x")
        elif kind == "folder":
            with atomic_folder(path):
                pass
        elif kind == "link":
            atomic_symlink(path, "x")
        elif kind == "text":
            write_text(path, "x")
        else:
            with locked(path):
                pass

    with pytest.raises(WriteError, match=rf"^cannot write {path}: Not a directory \({tmp_path}"):
        write()


@needs_permissions
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_read_only_folder_is_named(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "storage"
    folder.mkdir(mode=0o500)

    def write() -> None:
        if kind == "file":
            write_text(folder / "a", "x")
        else:
            atomic_folder(folder / "a").__enter__()

    with pytest.raises(WriteError, match=rf"^cannot write {folder}/a: Permission denied\. "):
        write()

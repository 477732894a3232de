"""Readers find the previous artefact or the new one, even after the writer is killed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmctr_pipeline.files.atomic import atomic_folder, atomic_symlink, atomic_write

_STUCK_WRITER = """
import sys, time
from pathlib import Path
from mmctr_pipeline.files.atomic import atomic_folder, atomic_write
path = Path(sys.argv[2])
with globals()[sys.argv[1]](path) as temporary:
    target = temporary / "part" if temporary.is_dir() else temporary
    target.write_text("half of the new one")
    print("inside", flush=True)
    time.sleep(60)
"""


def _kill_inside(function: str, path: Path) -> None:
    """Start a process, and kill it while it is writing `path`."""
    command = [sys.executable, "-c", _STUCK_WRITER, function, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "inside\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_a_file_appears_complete_and_nothing_else_remains(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.parquet"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".parquet"
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["a.parquet"]


def test_an_error_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("previous")

    def write_and_fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        write_and_fail()
    assert path.read_text() == "previous"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="nothing was written"),
        atomic_write(tmp_path / "a"),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_file_never_replaces_a_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "folder"):
        pass
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "file"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("function", ["atomic_write", "atomic_folder"])
def test_a_kill_keeps_the_previous_artefact_and_the_next_writer_cleans_up(
    tmp_path: Path, function: str
) -> None:
    path = tmp_path / "artefact"
    writer = {"atomic_write": atomic_write, "atomic_folder": atomic_folder}[function]
    for text in ("previous", "later"):
        with writer(path) as temporary:
            part = temporary / "part" if function == "atomic_folder" else temporary
            part.write_text(text)
        read = path / "part" if function == "atomic_folder" else path
        assert read.read_text() == text
        # An atomic folder is a link and the folder that it points to.
        assert len(os.listdir(tmp_path)) == (2 if function == "atomic_folder" else 1)
        if text == "previous":
            _kill_inside(function, path)
            assert read.read_text() == "previous"
            assert len(os.listdir(tmp_path)) > 2


def test_a_kill_during_the_first_write_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "artefact"
    _kill_inside("atomic_folder", path)
    assert not path.exists()
    for _ in range(2):
        with atomic_folder(path) as temporary:
            (temporary / "part").write_text("whole")
    assert (path / "part").read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 2


def test_concurrent_writers_do_not_remove_each_others_work(tmp_path: Path) -> None:
    path = tmp_path / "artefact"
    with atomic_write(path) as slow:
        slow.write_text("slow")
        with atomic_write(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
    assert path.read_text() == "slow"
    folder = tmp_path / "folder"
    with atomic_folder(folder) as slow:
        (slow / "part").write_text("slow")
        for _ in range(2):
            with atomic_folder(folder) as quick:
                (quick / "part").write_text("quick")
        assert (folder / "part").read_text() == "quick"
    assert (folder / "part").read_text() == "slow"


def test_files_of_similar_names_are_left_alone(tmp_path: Path) -> None:
    others = [".tmp-0123456789ab-b.csv", ".a.csv.0123456789ab", ".hidden", "b-a.csv"]
    for name in others:
        (tmp_path / name).write_text("x")
    with atomic_write(tmp_path / "a.csv") as temporary:
        temporary.write_text("x")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.csv"])


def test_concurrent_writers_never_mix(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    errors: list[BaseException] = []

    def write_many(mark: str) -> None:
        try:
            for _ in range(25):
                with atomic_write(path) as temporary:
                    temporary.write_text(mark * 5000)
                with atomic_folder(folder) as temporary:
                    (temporary / "one").write_text(mark)
                    (temporary / "two").write_text(mark)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write_many, args=(mark,)) for mark in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert len(set(path.read_text())) == 1
    for thread in threads:
        thread.join()
    assert errors == []
    assert (folder / "one").read_text() == (folder / "two").read_text()
    with atomic_folder(folder) as temporary:
        (temporary / "one").write_text("last")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", "folder", os.readlink(folder)])


def test_a_plain_folder_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "artefact"
    path.mkdir()
    (path / "part").write_text("previous")
    with atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "part").write_text("new")
        assert (path / "part").read_text() == "previous"
    assert (path / "deep" / "part").read_text() == "new"
    assert path.is_symlink()
    assert len(os.listdir(tmp_path)) == 2


def test_a_linked_folder_elsewhere_keeps_its_contents(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "part").write_text("mine")
    path = tmp_path / "storage" / "artefact"
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    with atomic_folder(path) as temporary:
        (temporary / "part").write_text("new")
    assert (elsewhere / "part").read_text() == "mine"
    assert (path / "part").read_text() == "new"


def test_an_error_keeps_the_previous_folder(tmp_path: Path) -> None:
    path = tmp_path / "artefact"
    with atomic_folder(path) as temporary:
        (temporary / "part").write_text("previous")
    with pytest.raises(RuntimeError, match="planted"), atomic_folder(path):
        raise RuntimeError("planted")
    assert (path / "part").read_text() == "previous"
    assert len(os.listdir(tmp_path)) == 2


def test_the_storage_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "storage").symlink_to(tmp_path / "disk")
    for text in ("previous", "later"):
        with atomic_folder(tmp_path / "storage" / "artefact") as temporary:
            (temporary / "part").write_text(text)
    assert (tmp_path / "disk" / "artefact" / "part").read_text() == "later"
    assert len(os.listdir(tmp_path / "disk")) == 2


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        atomic_symlink(tmp_path / "latest", name)
        assert (tmp_path / "latest").read_text() == name
    assert sorted(os.listdir(tmp_path)) == ["latest", "one", "two"]
    with pytest.raises(IsADirectoryError):
        atomic_symlink(tmp_path, "one")

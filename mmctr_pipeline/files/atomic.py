"""Atomic writing: an artefact is either the earlier one or the new one, never something between.

A writer works under a temporary name in the artefact's own folder and holds a lock (`flock`) on a
file beside it, which the operating system frees when the writer dies. So the next writer can tell
what a dead one left behind from what a living one is still writing.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline.files.locks import locked

_RANDOM = r"[0-9a-f]{12}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, of the same suffix, to write a file to.

    Leaving the block without an error flushes the file to disk and renames it to `path`; an error
    removes it, and what was at `path` stays. Missing parent folders are made. Of two writers at
    once the last to finish wins. Raises `FileNotFoundError` where the block wrote nothing and
    `IsADirectoryError` where `path` is a folder.
    """
    path = _without_dots(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file was to be written there")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path, is_folder=False)
    with _locked_name(path, is_folder=False) as temporary:
        try:
            yield temporary
            if not temporary.is_file():
                raise FileNotFoundError(f"nothing was written to {temporary}, meant for {path}")
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder `.<name>.<random>` beside `path`, to fill with files.

    Leaving the block without an error flushes it all to disk, points the symbolic link `path` to
    it in one step, and removes the folder that the link pointed to before, if that was made here
    too (a folder elsewhere is left alone). An error removes the new folder, and `path` stays. A
    plain folder at `path` is replaced. Raises `NotADirectoryError` where `path` is a file.
    """
    path = _without_dots(path)
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file; a folder was to be written there")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a link nothing tells which folder holds the earlier artefact, so that none is removed.
    if path.is_symlink():
        _remove_left_behind(path, is_folder=True)
    with _locked_name(path, is_folder=True) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            _flush_tree(temporary)
            _point_to(path, temporary)
        except BaseException:
            if _target(path) != temporary:
                shutil.rmtree(temporary, ignore_errors=True)
            raise


def atomic_symlink(path: Path, target: Path | str) -> None:
    """Make `path` a symbolic link to `target` (relative to its folder) in one step.

    A link or file at `path` is replaced; raises `IsADirectoryError` for a plain folder.
    """
    path = _without_dots(path)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{path} is a folder; a link was to be made there")
    _remove_left_behind(path, is_folder=False)
    with _locked_name(path, is_folder=False) as temporary:
        os.symlink(target, temporary)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    flush(path.parent)


def _point_to(path: Path, folder: Path) -> None:
    earlier = _target(path)
    if path.is_dir() and not path.is_symlink():
        # A folder cannot be replaced by a link in one step; aside it keeps its contents meanwhile.
        earlier = _temporary_name(path, is_folder=True)
        os.rename(path, earlier)
    atomic_symlink(path, folder.name)
    if earlier is not None and earlier != folder and _is_ours(earlier, path, is_folder=True):
        # Another writer may be removing the same folder at this moment.
        shutil.rmtree(earlier, ignore_errors=True)


@contextlib.contextmanager
def _locked_name(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a fresh temporary name for `path`, its lock held until the block is left."""
    temporary = _temporary_name(path, is_folder=is_folder)
    with locked(_lock_of(temporary)):
        yield temporary


def _remove_left_behind(path: Path, *, is_folder: bool) -> None:
    """Remove temporary files, folders and links for `path` whose writers are dead."""
    for name in os.listdir(path.parent):
        temporary = path.parent / name.removesuffix(".lock")
        if not _is_ours(temporary, path, is_folder=is_folder):
            continue
        # A writer lets go of its lock only after its work is in place or given up.
        with locked(_lock_of(temporary), wait=False) as is_dead:
            if is_dead:
                _remove_unless_current(temporary, path)


def _remove_unless_current(temporary: Path, path: Path) -> None:
    if _target(path) == temporary:
        return
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def _temporary_name(path: Path, *, is_folder: bool) -> Path:
    random = secrets.token_hex(6)
    # A file keeps its whole name at the end, as many writers choose the format by the suffix.
    name = f".{path.name}.{random}" if is_folder else f".tmp-{random}-{path.name}"
    return path.with_name(name)


def _is_ours(candidate: Path, path: Path, *, is_folder: bool) -> bool:
    name = re.escape(path.name)
    pattern = rf"\.{name}\.{_RANDOM}" if is_folder else rf"\.tmp-{_RANDOM}-{name}"
    return candidate.parent == path.parent and re.fullmatch(pattern, candidate.name) is not None


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _target(path: Path) -> Path | None:
    """Return what the link `path` points to, or None where it is no link."""
    try:
        return _without_dots(path.parent / os.readlink(path))
    except OSError:
        return None


def _without_dots(path: Path) -> Path:
    """Return the absolute path without `..`; the last part is kept even where it is a link."""
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent) / name
            if not file.is_symlink():
                flush(file)
        flush(Path(parent))

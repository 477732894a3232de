"""Atomic writes: readers find the previous artefact or the new one, never a half-written one.

A writer uses a temporary name in the artefact's folder and holds a lock (`flock`) on a file beside
it. The operating system releases the lock when the writer dies. So the next writer can tell the
leftovers of dead writers, which it removes, from the files of live ones.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline.files.errors import naming_write_errors
from mmctr_pipeline.files.locks import locked

_RANDOM = r"[0-9a-f]{12}"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the suffix of `path`, in the same folder, to write a file to.

    On success, flush the file to disk and rename it to `path`. On an error, remove it and leave
    `path` as it was. Parent folders are created. Of two concurrent writers, the last to finish
    wins. Raises `FileNotFoundError` if the block wrote nothing, `IsADirectoryError` if `path` is a
    folder, and `WriteError` if disk or permissions do not allow it.
    """
    path = _normalized(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a file to {path}: it is a folder")
    with _replacement(path) as temporary:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"nothing was written to {temporary}, meant for {path}")
        flush(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; errors as in `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder `.<name>.<random>` beside `path`, to fill with files.

    On success, flush the folder to disk and point the symbolic link `path` to it in one step. Then
    remove the folder that the link pointed to before, but only if this function created it. On an
    error, remove the new folder and leave `path` as it was. A plain folder at `path` is replaced.
    Raises `NotADirectoryError` if `path` is a file, and `WriteError` as in `atomic_write`.
    """
    path = _normalized(path)
    if path.is_file():
        raise NotADirectoryError(f"cannot write a folder to {path}: it is a file")
    with _locked_name(path, is_folder=True) as temporary:
        temporary.mkdir()
        try:
            yield temporary
            _flush_tree(temporary)
            _point_to(path, temporary)
        except BaseException:
            if _link_target(path) != temporary:
                shutil.rmtree(temporary, ignore_errors=True)
            raise


def atomic_symlink(path: Path, target: Path | str) -> None:
    """Make `path` a symbolic link to `target`, relative to the folder of `path`, in one step.

    A link or file at `path` is replaced. Raises `IsADirectoryError` for a plain folder.
    """
    path = _normalized(path)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"cannot create a link at {path}: it is a folder")
    with _replacement(path) as temporary:
        os.symlink(target, temporary)


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Yield a temporary name; on success rename it to `path`, on an error remove it."""
    with _locked_name(path, is_folder=False) as temporary:
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the disk may refuse this too
                temporary.unlink(missing_ok=True)
            raise
        flush(path.parent)


def _point_to(path: Path, folder: Path) -> None:
    previous = _link_target(path)
    if path.is_dir() and not path.is_symlink():
        # A link cannot replace a folder in one step, so the folder is renamed first.
        previous = _temporary_name(path, is_folder=True)
        os.rename(path, previous)
    atomic_symlink(path, folder.name)
    if previous is None or previous == folder:
        return
    if _is_temporary_name(previous, path, is_folder=True):
        # Another writer may be removing the same folder at this moment.
        shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def _locked_name(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Remove the leftovers of dead writers of `path`; yield a temporary name and hold its lock."""
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # If the link is missing, any of the folders may hold the current artefact, so none is
        # removed.
        if not is_folder or path.is_symlink():
            _remove_leftovers(path, is_folder=is_folder)
        temporary = _temporary_name(path, is_folder=is_folder)
        with locked(_lock_path(temporary)):
            yield temporary


def _remove_leftovers(path: Path, *, is_folder: bool) -> None:
    """Remove temporary files, folders and links for `path` whose writers are dead."""
    for name in os.listdir(path.parent):
        temporary = path.parent / name.removesuffix(".lock")
        if not _is_temporary_name(temporary, path, is_folder=is_folder):
            continue
        # A writer keeps its lock until its result is in place or discarded.
        with locked(_lock_path(temporary), wait=False) as is_dead:
            if not is_dead or _link_target(path) == temporary:
                continue
            if temporary.is_dir() and not temporary.is_symlink():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _temporary_name(path: Path, *, is_folder: bool) -> Path:
    random = secrets.token_hex(6)
    # Files keep their name at the end, as many writers choose the format by the suffix.
    name = f".{path.name}.{random}" if is_folder else f".tmp-{random}-{path.name}"
    return path.with_name(name)


def _is_temporary_name(candidate: Path, path: Path, *, is_folder: bool) -> bool:
    """Return whether `candidate` is a name that `_temporary_name` may give for `path`."""
    name = re.escape(path.name)
    pattern = rf"\.{name}\.{_RANDOM}" if is_folder else rf"\.tmp-{_RANDOM}-{name}"
    return candidate.parent == path.parent and re.fullmatch(pattern, candidate.name) is not None


def _lock_path(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _link_target(path: Path) -> Path | None:
    """Return the path that the link `path` points to; None if it is not a link."""
    try:
        return _normalized(path.parent / os.readlink(path))
    except OSError:
        return None


def _normalized(path: Path) -> Path:
    """Return the absolute path without `..`, resolving links in all but its last part."""
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for file in (Path(parent, name) for name in names):
            if not file.is_symlink():
                flush(file)
        flush(Path(parent))

"""Fitted transforms on disk: which one was made by what, and reading one that may be damaged."""

import datetime
import hashlib
import io
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from mmctr_pipeline.files.atomic import atomic_write


class Transform(Protocol):
    """A fitted transform; `identity` is its name and content hash."""

    @property
    def identity(self) -> str:
        """Equal only for equal transforms of equal inputs."""

    def save(self, path: Path) -> None:
        """Write to a `.pt` file, atomically."""


TransformT = TypeVar("TransformT", bound=Transform)

FIX = "remove it, or run once with fusion.refit: true, and it is fitted again"
"""What to do about a stored file that cannot be used."""


class TransformStore:
    """Fitted transforms in a folder, each with a record of what it was made by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """Return the path of a transform."""
        return self.folder / f"{identity.replace(':', '-')}.pt"

    def save(self, transform: Transform, made_by: Mapping[str, Any]) -> None:
        """Write a transform and record it as the newest one made by these inputs, atomically."""
        transform.save(self.path(transform.identity))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"transform": transform.identity, "fitted_at": now, "made_by": made_by}
        with atomic_write(self._record_path(made_by)) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def newest(self, made_by: Mapping[str, Any]) -> str | None:
        """Return the identity of the newest transform made by these inputs, or None.

        Raises `ValueError` where the record is damaged.
        """
        path = self._record_path(made_by)
        if not path.is_file():
            return None
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["transform"])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error!r}): {FIX}") from error

    def _record_path(self, made_by: Mapping[str, Any]) -> Path:
        # Not named after the transform: equal data in two folders give the same transform.
        canonical = json.dumps(made_by, sort_keys=True)
        return self.folder / f"made-by-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}.json"


def read_transform(
    path: Path, what: str, marks: Mapping[str, Any], build: Callable[[dict[str, Any]], TransformT]
) -> TransformT:
    """Return what `build` makes of the content of a `.pt` file, which says its own identity.

    `marks` are the entries that tell a file of this kind and format. Raises `ValueError` where the
    file is damaged, or its content is not what it says.
    """
    content = read_content(path)
    if not isinstance(content, dict) or any(
        content.pop(name, None) != value for name, value in marks.items()
    ):
        raise ValueError(f"{path} is not {what} of format {marks['format']}: {FIX}")
    try:
        identity = content.pop("identity")
        transform = build(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks a part of {what} ({error}): {FIX}") from error
    if transform.identity != identity:
        raise ValueError(
            f"{path} says that it is {identity}, but its content is {transform.identity}: {FIX}"
        )
    return transform


def read_content(path: Path) -> Any:
    """Return what a `.pt` file holds, on the CPU; raises `ValueError` where it is damaged."""
    # Read before, as torch raises an OSError of its own for a file that was cut short.
    stored = io.BytesIO(path.read_bytes())
    try:
        return torch.load(stored, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        AssertionError,
    ) as error:
        # The first line alone: torch goes on with advice to load without its safeguard.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged ({reason}): {FIX}") from error

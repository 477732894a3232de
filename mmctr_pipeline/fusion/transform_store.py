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
        """Equal for equal transforms of equal inputs alone."""


Kept = TypeVar("Kept", bound=Transform)

FIX = "remove it, or run once with fusion.refit: true, and it is fitted again"
"""What to do about a kept file that is of no use."""


def transform_path(folder: Path, identity: str) -> Path:
    """Return where the transform of an identity is kept."""
    return folder / f"{identity.replace(':', '-')}.pt"


def record_path(folder: Path, made_by: Mapping[str, Any]) -> Path:
    """Return where it stands which transform was made by these settings, encoders and data."""
    # Not beside the transform by its name: equal data of two folders give one and the same.
    canonical = json.dumps(made_by, sort_keys=True)
    return folder / f"made-by-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}.json"


def record_made_by(folder: Path, made_by: Mapping[str, Any], identity: str) -> None:
    """Write that the newest transform made by this is that of `identity`, atomically."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"transform": identity, "fitted_at": now, "made_by": made_by}
    with atomic_write(record_path(folder, made_by)) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def identity_made_by(folder: Path, made_by: Mapping[str, Any]) -> str | None:
    """Return the identity of the newest transform made by this, None where there never was one.

    Raises `ValueError` where the record is damaged.
    """
    path = record_path(folder, made_by)
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["transform"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): {FIX}") from error


def read_transform(
    path: Path, what: str, marks: Mapping[str, Any], build: Callable[[dict[str, Any]], Kept]
) -> Kept:
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

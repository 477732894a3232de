"""Fitted transforms on disk: which one was made by what, and reading one that may be damaged."""

import datetime
import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.data.atomic import atomic_write

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

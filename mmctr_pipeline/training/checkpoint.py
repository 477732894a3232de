"""Checkpoints of a training run: found, it goes on where it stopped and ends with the same weights.

Everything random in a run follows from the seed, the epoch and the part of the epoch, so that a
checkpoint needs no generator states: it is taken after a validation, and names the next part.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from mmctr_pipeline.files.atomic import atomic_write

logger = logging.getLogger(__name__)


def run_key(**decisive: Any) -> str:
    """Return a hash of whatever decides on the result of a run, each a plain value.

    That is configuration, code version, data, vectors: a run whose key is found goes on from there.
    """
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]


def abandoned(storage: Path, unused_days: int) -> list[Path]:
    """Return the folders of runs whose last checkpoint is more than `unused_days` days old."""
    oldest = time.time() - unused_days * 86_400
    root = storage / "checkpoints"
    newest: dict[Path, float] = {}
    # A run may keep further ones in folders of its own.
    for file in root.glob("**/checkpoint.pt"):
        with contextlib.suppress(FileNotFoundError):  # a run has just ended
            run = root / file.relative_to(root).parts[0]
            newest[run] = max(newest.get(run, 0.0), file.stat().st_mtime)
    return sorted(run for run, last_written in newest.items() if last_written < oldest)


@dataclasses.dataclass
class Checkpoints:
    """The checkpoint of one run in `folder`, which belongs to that very run.

    One is written after the first validation that ends `every_seconds` or more after the last was
    written: the weights it saves cost time to write, and what is lost to a kill is no more than
    that.
    """

    folder: Path
    every_seconds: float = 30.0

    @classmethod
    def of_run(cls, storage: Path, run_key: str) -> Self:
        """Return those of the run with this key (see `run_key`) in a storage folder."""
        return cls(storage / "checkpoints" / run_key)

    def __post_init__(self) -> None:
        self._last_written = time.monotonic()

    @property
    def path(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / "checkpoint.pt"

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state that was saved, its tensors on `device`; None where there is none."""
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                f"{self.path} cannot be read as a checkpoint; remove it to train from the beginning"
            ) from error
        logger.info(f"going on from {self.path}")
        return state

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write what `state` returns, where one is due; a kill leaves the one before."""
        if time.monotonic() - self._last_written < self.every_seconds:
            return
        with atomic_write(self.path) as temporary:
            torch.save(state(), temporary)
        self._last_written = time.monotonic()

    def remove(self) -> None:
        """Remove the folder: the run's model is saved, or the run is to begin anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

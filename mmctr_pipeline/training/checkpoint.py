"""Checkpoints of a training run. A run that resumes from one ends with the same weights.

Everything random in a run follows from the seed, the epoch and the part of the epoch. A checkpoint
is taken after a validation, where one part ends and the next begins, so it holds no random state.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.tensors import load_tensors, save_tensors

logger = logging.getLogger(__name__)


def run_key(**decisive: Any) -> str:
    """Return a hash of everything that decides the result of a run, given as plain values.

    For a training run these are configuration, code version, data, vectors, kind of device, number
    format and number of threads. A run resumes from a checkpoint with the same key.
    """
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:24]


def abandoned(storage: Path, unused_days: int) -> list[Path]:
    """Return the folders of runs whose last checkpoint is more than `unused_days` days old."""
    oldest = time.time() - unused_days * 86_400
    folders = []
    for folder in sorted((storage / "checkpoints").glob("*")):
        with contextlib.suppress(FileNotFoundError):  # the run has just ended
            # A run may have more checkpoints in subfolders.
            written = [file.stat().st_mtime for file in folder.rglob("checkpoint.pt")]
            if written and max(written) < oldest:
                folders.append(folder)
    return folders


@dataclasses.dataclass
class Checkpoints:
    """The checkpoint of one run, in a `folder` of its own.

    Writing takes time, so a checkpoint is written only after a validation, and only if the last one
    was written at least `every_seconds` before. A kill loses the work since the last checkpoint.
    """

    folder: Path
    every_seconds: float = 30.0

    @classmethod
    def for_run(cls, storage: Path, run_key: str) -> Self:
        """Return the checkpoints of the run with this key (see `run_key`) in a storage folder."""
        return cls(storage / "checkpoints" / run_key)

    def __post_init__(self) -> None:
        self._last_written = time.monotonic()

    @property
    def path(self) -> Path:
        """Path of the checkpoint."""
        return self.folder / "checkpoint.pt"

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Return the saved state with its tensors on `device`, or None if there is none.

        A damaged checkpoint is logged and counts as none: the run begins again, and replaces it.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = load_tensors(self.path, device)
        except DamagedFileError as error:
            logger.warning(f"{error}; training from the beginning")
            return None
        logger.info(f"resuming from {self.path}")
        return state

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the result of `state` if a checkpoint is due.

        If the process is killed meanwhile, the previous checkpoint remains.
        """
        if time.monotonic() - self._last_written < self.every_seconds:
            return
        with atomic_write(self.path) as temporary:
            save_tensors(temporary, state())
        self._last_written = time.monotonic()

    def remove(self) -> None:
        """Remove the folder, after the model was saved or to train from the beginning."""
        shutil.rmtree(self.folder, ignore_errors=True)

"""Versions of trained models: a folder each, and `best_model.pt` pointing to the latest."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mmctr_pipeline.files.atomic import atomic_symlink, flush
from mmctr_pipeline.registry.card import model_card
from mmctr_pipeline.registry.model_file import ModelFile

_INCOMING = ".incoming-"


def write_version(storage_dir: Path, model_file: ModelFile) -> Path:
    """Write `models/<version>/{model.pt, metrics.json, card.md}` and return that folder.

    The version is the UTC time and the beginning of the content hash of `model.pt`. The folder
    appears whole or not at all; only then does `best_model.pt` in `storage_dir` point to its model,
    in one step. A writer that dies leaves the latest model as it was.
    """
    models = storage_dir / "models"
    models.mkdir(parents=True, exist_ok=True)
    with _only_writer(models):
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=models))
        try:
            model_file.save(incoming / "model.pt")
            sha256 = _sha256(incoming / "model.pt")
            version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{sha256[:8]}"
            metrics = {"version": version, "sha256": sha256, **model_file.description()}
            (incoming / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
            (incoming / "card.md").write_text(model_card(model_file, version), encoding="utf-8")
            # mkdtemp keeps others out; a model is to be read by whoever may read the storage.
            incoming.chmod(0o755)
            for path in (*incoming.iterdir(), incoming):
                flush(path)
            if not (models / version).exists():
                os.rename(incoming, models / version)
        finally:
            # Gone after the renaming; still there after an error, or where the very same model
            # was written within the same second.
            shutil.rmtree(incoming, ignore_errors=True)
        flush(models)
        atomic_symlink(storage_dir / "best_model.pt", Path("models") / version / "model.pt")
    return models / version


def latest_model_path(storage_dir: Path) -> Path:
    """Return the file that `best_model.pt` points to, `models/<version>/model.pt`.

    Raises `FileNotFoundError` where nothing was trained yet, or the version is gone.
    """
    link = storage_dir / "best_model.pt"
    if not link.exists():
        state = (
            f"points to {os.readlink(link)}, which is gone" if link.is_symlink() else "is absent"
        )
        raise FileNotFoundError(f"{link} {state}: materialise trained_model")
    return link.resolve()


@contextlib.contextmanager
def _only_writer(models: Path) -> Iterator[None]:
    """Hold the lock on `models`, and remove what dead writers left there."""
    with (models / ".writer.lock").open("w") as lock:
        # The system frees the lock of a writer that dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left_behind in models.glob(f"{_INCOMING}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

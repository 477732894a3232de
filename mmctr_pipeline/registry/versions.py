"""Versions of trained models: each has a folder, and `best_model.pt` links to the latest."""

import hashlib
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from mmctr_pipeline.files.atomic import atomic_symlink, flush, write_text
from mmctr_pipeline.files.errors import naming_write_errors
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.registry.card import model_card
from mmctr_pipeline.registry.model_file import ModelFile

_INCOMING = ".incoming-"


def write_version(storage_dir: Path, model_file: ModelFile) -> Path:
    """Write `models/<version>/{model.pt, metrics.json, card.md}` and return that folder.

    The version is the UTC time and the first digits of the hash of `model.pt`. The folder is never
    visible half-written, and `best_model.pt` in `storage_dir` is changed in one step. A writer that
    dies leaves the latest model as it was. Raises `WriteError` if disk or permissions do not allow
    it.
    """
    models, latest = storage_dir / "models", storage_dir / "best_model.pt"
    with naming_write_errors(latest), locked(models / ".writer.lock"):
        # This process holds the lock, so these folders are leftovers of dead writers.
        for leftover in models.glob(f"{_INCOMING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=_INCOMING, dir=models, ignore_cleanup_errors=True
        ) as temporary:
            incoming = Path(temporary)
            version = _write_files(incoming, model_file)
            # The folder already exists if the same model was written earlier in this second.
            if not (models / version).exists():
                os.rename(incoming, models / version)
        flush(models)
        atomic_symlink(latest, Path("models") / version / "model.pt")
    return models / version


def _write_files(folder: Path, model_file: ModelFile) -> str:
    """Write the files of a version to disk and return its name."""
    model_file.save(folder / "model.pt")
    with (folder / "model.pt").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{sha256[:8]}"
    metrics = {"version": version, "sha256": sha256, **model_file.description()}
    write_record(folder / "metrics.json", metrics)
    write_text(folder / "card.md", model_card(model_file, version))
    # Temporary folders are private, but models may be read by all who may read the storage folder.
    folder.chmod(0o755)
    for path in (*folder.iterdir(), folder):
        flush(path)
    return version

"""Versions of trained models: each has a folder, and `latest_model.pt` links to the latest."""

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

LATEST = "latest_model.pt"
LATEST_REPORT = "latest_report.html"
WRITER_LOCK = ".writer.lock"
_INCOMING = ".incoming-"


def model_path(storage: Path, version: str) -> Path:
    """Return the path of a version's model file."""
    return storage / "models" / version / "model.pt"


def newest_first(storage: Path) -> list[str]:
    """Return the versions in the storage folder, the newest first."""
    found = (storage / "models").glob("*/model.pt")
    versions = [path.parent.name for path in found]
    return sorted((v for v in versions if not v.startswith(_INCOMING)), reverse=True)


def latest_version(storage: Path) -> str:
    """Return the version that was trained last; raises `FileNotFoundError` if there is none."""
    return (storage / LATEST).resolve(strict=True).parent.name


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_version(storage_dir: Path, model_file: ModelFile) -> Path:
    """Write `models/<version>/{model.pt, metrics.json, card.md}` and return that folder.

    The version is the UTC time and the first digits of the hash of `model.pt`. The folder is never
    visible half-written, and `latest_model.pt` in `storage_dir` is changed in one step. A writer
    that dies leaves the latest model as it was. Raises `WriteError` if disk or permissions do not
    allow it.
    """
    models, latest = storage_dir / "models", storage_dir / LATEST
    with naming_write_errors(latest), locked(models / WRITER_LOCK):
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
        atomic_symlink(latest, model_path(Path(), version))
    return models / version


def write_report(storage_dir: Path, version: str, html: str) -> Path:
    """Write `models/<version>/report.html` and return it; `latest_report.html` links to it.

    Raises `WriteError` if disk or permissions do not allow it.
    """
    path = model_path(storage_dir, version).with_name("report.html")
    with locked(storage_dir / "models" / WRITER_LOCK):
        write_text(path, html)
        atomic_symlink(storage_dir / LATEST_REPORT, path.relative_to(storage_dir))
    return path


def _write_files(folder: Path, model_file: ModelFile) -> str:
    """Write the files of a version to disk and return its name."""
    model_file.save(folder / "model.pt")
    sha256 = sha256_of(folder / "model.pt")
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{sha256[:8]}"
    metrics = {"version": version, "sha256": sha256, **model_file.description()}
    write_record(folder / "metrics.json", metrics)
    write_text(folder / "card.md", model_card(model_file, version))
    # Temporary folders are private, but models may be read by all who may read the storage folder.
    folder.chmod(0o755)
    for path in (*folder.iterdir(), folder):
        flush(path)
    return version

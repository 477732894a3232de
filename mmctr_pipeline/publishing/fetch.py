"""Fetch published artefacts into a storage folder."""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from mmctr_pipeline.files.atomic import atomic_folder, atomic_symlink, atomic_write
from mmctr_pipeline.publishing.artefacts import ARTEFACTS
from mmctr_pipeline.publishing.record import FOLDER, PublishedArtefact, PublishedFile
from mmctr_pipeline.publishing.store import ObjectStore, PublishError

logger = logging.getLogger(__name__)

_DATASET = "train_dataset"


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A fetched artefact: its name, its number of files, and their bytes."""

    name: str
    n_files: int
    n_bytes: int


def fetch(
    storage: Path, store: ObjectStore, names: Sequence[str] = (), *, replace: bool = False
) -> list[Fetched]:
    """Fetch artefacts; files that are present and equal are not downloaded again.

    Each file is written atomically, and compared with its recorded size and SHA-256 first. If the
    process is killed, the same call continues. Raises `PublishError` before it writes anything if
    a name was not published, or if files in `storage` differ and `replace` is false.

    Parameters
    ----------
    storage
        The storage folder; it is created if necessary.
    store
        Where the artefacts were published to.
    names
        The assets to fetch; by default all that were published.
    replace
        Whether to replace files in `storage` that differ from the published ones.
    """
    records = _records(store, names)
    missing = {record.name: _missing(storage, record) for record in records}
    differing = [
        path
        for record in records
        for path in (*missing[record.name], *_moved_links(storage, record))
        if (storage / path).exists()
    ]
    if differing and not replace:
        raise PublishError(
            f"{len(differing)} files in {storage} differ from those published at {store.url}: "
            f"{', '.join(differing[:5])}. Fix: mmctr pull --replace takes the published ones; "
            "mmctr push publishes these"
        )
    return [_fetch_artefact(storage, store, record, missing[record.name]) for record in records]


def _records(store: ObjectStore, names: Sequence[str]) -> list[PublishedArtefact]:
    published = [name.removesuffix(".json") for name in store.names(FOLDER)]
    known = [name for name in ARTEFACTS if name in published]
    if not known:
        raise PublishError(f"nothing was published at {store.url}. Fix: mmctr push, where it is")
    for name in names:
        if name not in known:
            raise PublishError(f"{name} was not published at {store.url}, which has: {known}")
    records = [PublishedArtefact.read(store, name) for name in names or known]
    return [record for record in records if record is not None]


def _missing(storage: Path, record: PublishedArtefact) -> dict[str, PublishedFile]:
    """Return the files that the storage folder lacks or has with another content."""
    return {
        path: file for path, file in record.files.items() if not _is_equal(storage / path, file)
    }


def _is_equal(path: Path, file: PublishedFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _moved_links(storage: Path, record: PublishedArtefact) -> list[str]:
    return [
        link
        for link, target in record.links.items()
        if (storage / link).resolve() != (storage / target).resolve()
    ]


def _fetch_artefact(
    storage: Path,
    store: ObjectStore,
    record: PublishedArtefact,
    missing: dict[str, PublishedFile],
) -> Fetched:
    if record.name == _DATASET and missing:
        # Its files belong together, so the folder is replaced as a whole.
        missing = record.files
        with atomic_folder(storage / _DATASET) as folder:
            for path, file in missing.items():
                _download(store, file, folder / Path(path).name)
    else:
        for path, file in missing.items():
            with atomic_write(storage / path) as temporary:
                _download(store, file, temporary)
    for link in _moved_links(storage, record):
        atomic_symlink(storage / link, record.links[link])
    n_bytes = sum(file.size for file in missing.values())
    logger.info(
        f"fetched {record.name}: {len(missing)} of {len(record.files)} files, "
        f"{n_bytes / 1e6:,.1f} MB; the others were there"
    )
    return Fetched(record.name, len(missing), n_bytes)


def _download(store: ObjectStore, file: PublishedFile, target: Path) -> None:
    sha256 = store.download(file.key, target)
    if (sha256, target.stat().st_size) != (file.sha256, file.size):
        raise PublishError(
            f"{store.url}/{file.key} is not what was published: its content differs from the "
            "recorded SHA-256. Fix: delete it, then mmctr push where the artefact is intact"
        )

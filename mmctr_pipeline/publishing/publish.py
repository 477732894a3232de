"""Publish artefacts: copy their files to an object store, then write the record that names them."""

import datetime
import hashlib
import logging
from pathlib import Path, PurePosixPath

from mmctr_pipeline.files import checksum
from mmctr_pipeline.publishing.artefacts import MODEL_FILES, REPORT, find_artefact
from mmctr_pipeline.publishing.record import PublishedArtefact, PublishedFile
from mmctr_pipeline.publishing.store import ObjectStore, PublishError

logger = logging.getLogger(__name__)

_SEALED = {".parquet", ".pt", ".json"}
_MODELS = PurePosixPath(MODEL_FILES).parts[0]


def publish(storage: Path, store: ObjectStore, name: str) -> PublishedArtefact | None:
    """Publish the present files of an asset; return the record, or None if there are no files.

    Files that the store has already are not uploaded again. The store shows either the earlier
    artefact or the new one, whenever this function ends. Raises `PublishError` if the store cannot
    be used, and `DamagedFileError` if a file does not match its checksum.

    Parameters
    ----------
    storage
        The storage folder.
    store
        Where to publish to.
    name
        The asset, one of `ARTEFACTS`.
    """
    artefact = find_artefact(storage, name)
    if artefact is None:
        return None
    earlier = PublishedArtefact.read(store, name)
    published = earlier.files if earlier else {}
    files, uploaded_bytes = {}, 0
    for path in artefact.files:
        file = _describe(storage, path)
        # What a record names was read back after its upload, but may have been deleted since.
        if published.get(path) == file:
            is_there = store.size(file.key) == file.size
        else:
            is_there = store.holds(file.key, file.size, file.sha256)
        if not is_there:
            store.upload(storage / path, file.key)
            uploaded_bytes += file.size
        files[path] = file
    if earlier and (files, artefact.links) == (earlier.files, earlier.links):
        logger.info(f"{name} is already published at {store.url}")
        return earlier
    kept = {file.key for file in files.values()}
    record = PublishedArtefact(
        name=name,
        published_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files=files,
        links=artefact.links,
        superseded=[
            file.key
            for path, file in published.items()
            if file.key not in kept and not _is_model_file(path)
        ],
    )
    record.write(store)
    logger.info(
        f"published {name} to {store.url}: {len(files)} files, {uploaded_bytes / 1e6:,.1f} MB sent"
    )
    _delete_superseded(store, earlier, kept)
    return record


def _describe(storage: Path, path: str) -> PublishedFile:
    """Return the entry of a file after comparing it with its own checksum."""
    local = storage / path
    try:
        with local.open("rb") as file:
            if local.suffix in _SEALED:
                checksum.verify(file, local)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = local.stat().st_size
    except FileNotFoundError as error:
        raise PublishError(
            f"{local} was replaced while it was being published. Fix: mmctr push"
        ) from error
    place = PurePosixPath(path)
    # The name of a version tells its content already, and its files can be found by other tools.
    name = place.name if _is_model_file(path) else f"{place.stem}-{sha256[:16]}{place.suffix}"
    return PublishedFile(key=str(place.with_name(name)), size=size, sha256=sha256)


def _is_model_file(path: str) -> bool:
    """Tell whether a file never changes; a report may be drawn again for the same version."""
    place = PurePosixPath(path)
    return place.parts[0] == _MODELS and place.name != REPORT


def _delete_superseded(
    store: ObjectStore, earlier: PublishedArtefact | None, kept: set[str]
) -> None:
    """Delete the objects that were superseded before; a failure is only logged."""
    for key in earlier.superseded if earlier else ():
        if key not in kept:
            try:
                store.delete(key)
            except PublishError as error:
                logger.warning(f"{key} was not deleted: {error}")

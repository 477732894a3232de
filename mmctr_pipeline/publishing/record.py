"""The record of a published artefact: which objects of the store are its files.

An artefact is visible through its record alone, which is written last and in one step. A file that
changes gets a new key, so the objects of the earlier record stay intact until then.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Self

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.fields import require_fields
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.publishing.artefacts import ARTEFACTS, belongs_to
from mmctr_pipeline.publishing.store import ObjectStore, PublishError

FOLDER = "published"


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """One object: its key in the store, its size in bytes, and the SHA-256 of its content."""

    key: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class PublishedArtefact:
    """The objects of an artefact by the paths of its files in the storage folder.

    `superseded` has the keys of the preceding record that this one does not use. They are deleted
    when this record is replaced, so that current readers of the preceding one can finish.
    """

    name: str
    published_at: str
    files: dict[str, PublishedFile]
    links: dict[str, str]
    superseded: list[str]

    @classmethod
    def read(cls, store: ObjectStore, name: str) -> Self | None:
        """Read the record of an artefact; None if the artefact has not been published.

        Raises `PublishError` if the record is damaged or names a path that the artefact cannot
        have.
        """
        key = record_key(name)
        if store.size(key) is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.json"
            store.download(key, path)
            try:
                return cls._parse(read_record(path), path)
            except DamagedFileError as error:
                reason = str(error).replace(str(path), f"{store.url}/{key}")
                raise PublishError(f"{reason}. Fix: delete it, then mmctr push {name}") from error

    @classmethod
    def _parse(cls, content: dict[str, Any], path: Path) -> Self:
        files = content.get("files")
        for file in files.values() if isinstance(files, dict) else ():
            if not isinstance(file, dict):
                raise DamagedFileError(f"{path} has an entry in files that is no object")
            require_fields(PublishedFile, file, path)
        if isinstance(files, dict):
            entries = {place: _published_file(file) for place, file in files.items()}
            content = {**content, "files": entries}
        require_fields(cls, content, path)
        record = cls(*(content[field.name] for field in dataclasses.fields(cls)))
        if record.name not in ARTEFACTS:
            raise DamagedFileError(f"{path} is of {record.name[:80]!r}, which is no asset")
        for place in (*record.files, *record.links, *record.links.values()):
            if not belongs_to(record.name, place):
                raise DamagedFileError(
                    f"{path} names {place[:80]!r}, which is no file of {record.name}"
                )
        return record

    def write(self, store: ObjectStore) -> None:
        """Write the record in one step, which makes the artefact visible."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.json"
            write_record(path, dataclasses.asdict(self))
            store.upload(path, record_key(self.name))


def record_key(name: str) -> str:
    """Return the key of the record of an artefact."""
    return f"{FOLDER}/{name}.json"


def _published_file(content: dict[str, Any]) -> PublishedFile:
    return PublishedFile(content["key"], content["size"], content["sha256"])

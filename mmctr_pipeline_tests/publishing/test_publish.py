"""Artefacts are published completely or not at all, to a real S3 server and to a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.publishing.artefacts import ARTEFACTS, REPORT
from mmctr_pipeline.publishing.fetch import fetch
from mmctr_pipeline.publishing.publish import publish
from mmctr_pipeline.publishing.record import PublishedArtefact
from mmctr_pipeline.publishing.store import ObjectStore, PublishError
from mmctr_pipeline.registry.versions import latest_version, write_report
from mmctr_pipeline_tests.publishing.artefact_files import (
    contents,
    published_names,
    write_artefacts,
    write_vectors,
)

PAST_SINGLE_UPLOAD = 101 * 2**20
"""Bytes of a file that s3fs uploads in several parts."""


def publish_all(storage: Path, store: ObjectStore) -> None:
    for name in ARTEFACTS:
        publish(storage, store, name)


def _objects(folder: Path) -> dict[str, int]:
    """Return when each object was written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_fresh_machine_gets_every_finished_file_and_nothing_else(
    store: ObjectStore, tmp_path: Path
) -> None:
    storage = write_artefacts(tmp_path / "storage")
    publish_all(storage, store)
    fetch(tmp_path / "fresh" / "storage", store)
    assert contents(tmp_path / "fresh" / "storage") == contents(storage)
    folders = {path.name for path in (tmp_path / "fresh" / "storage").iterdir() if path.is_dir()}
    assert {name for name in folders if name[0] != "."} == {"models", "train_dataset", "transforms"}


def test_assets_that_were_not_materialised_are_not_published(
    s3: ObjectStore, tmp_path: Path
) -> None:
    write_vectors(tmp_path, "text_embeddings", 0)
    publish_all(tmp_path, s3)
    assert published_names(s3) == ["text_embeddings"]


def test_unchanged_files_are_not_uploaded_again(
    s3: ObjectStore, objects: Path, tmp_path: Path
) -> None:
    storage = write_artefacts(tmp_path / "storage")
    publish_all(storage, s3)
    before = _objects(objects)
    publish_all(storage, s3)
    assert _objects(objects) == before
    # One by-product changes: only it and the record are written.
    (storage / "neighbours.png").write_bytes(b"another picture")
    publish(storage, s3, "fused_pca")
    changed = {key for key, time in _objects(objects).items() if before.get(key) != time}
    assert {key.partition("-")[0] for key in changed} == {"neighbours", "published/fused_pca.json"}


def test_an_object_that_was_deleted_is_uploaded_again(
    s3: ObjectStore, objects: Path, tmp_path: Path
) -> None:
    storage = write_artefacts(tmp_path / "storage")
    publish(storage, s3, "train_dataset")
    [deleted] = (objects / "train_dataset").glob("items-*")
    s3.delete(f"train_dataset/{deleted.name}")
    assert not deleted.exists()
    with pytest.raises(PublishError, match=f"cannot read {s3.url}"):
        fetch(tmp_path / "fresh", s3)
    publish(storage, s3, "train_dataset")
    fetch(tmp_path / "fresh", s3)


def test_an_earlier_artefact_stays_until_the_second_one_after_it(
    s3: ObjectStore, objects: Path, tmp_path: Path
) -> None:
    keys = []
    for seed in range(3):
        write_vectors(tmp_path, "text_embeddings", seed)
        record = publish(tmp_path, s3, "text_embeddings")
        assert record is not None
        keys.append(record.files["text_embeddings.parquet"].key)
        assert [(objects / key).is_file() for key in keys] == [
            *[False] * (seed - 1),
            *[True] * min(seed + 1, 2),
        ]


def test_every_version_of_a_model_stays_under_its_name(
    s3: ObjectStore, objects: Path, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    for seed in range(3):
        write_artefacts(storage, seed)
        publish(storage, s3, "trained_model")
    for version in (storage / "models").iterdir():
        if version.is_dir():
            for path in (each for each in version.iterdir() if each.name != REPORT):
                published = objects / "models" / version.name / path.name
                assert published.read_bytes() == path.read_bytes()


def test_a_report_that_is_drawn_again_leaves_what_else_was_published_of_its_version_valid(
    s3: ObjectStore, tmp_path: Path
) -> None:
    storage = write_artefacts(tmp_path / "storage")
    publish_all(storage, s3)
    version = latest_version(storage)
    write_report(storage, version, "<p>drawn again</p>")
    publish(storage, s3, "model_report")
    fetch(tmp_path / "fresh", s3)
    assert contents(tmp_path / "fresh") == contents(storage)
    fetch(tmp_path / "report_alone", s3, ["model_report"])
    assert (tmp_path / "report_alone" / "latest_report.html").read_text() == "<p>drawn again</p>"
    assert not list((tmp_path / "report_alone").rglob("model.pt"))


@pytest.mark.slow
def test_a_file_that_is_uploaded_in_parts_arrives_whole(s3: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_bytes(os.urandom(2**20) * (PAST_SINGLE_UPLOAD // 2**20))
    publish(tmp_path, s3, "submission_csv")
    fetch(tmp_path / "fresh", s3)
    assert (tmp_path / "fresh" / "submission.csv").read_bytes() == path.read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from mmctr_pipeline.publishing.publish import publish
from mmctr_pipeline.publishing.store import ObjectStore

storage, url, n_uploads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
upload = ObjectStore.upload

def upload_or_die(store, source, key):
    global n_uploads
    if n_uploads == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    n_uploads -= 1
    upload(store, source, key)

ObjectStore.upload = upload_or_die
publish(storage, ObjectStore(url), "train_dataset")
"""


def test_a_publisher_killed_midway_leaves_the_earlier_artefact(
    store: ObjectStore, tmp_path: Path
) -> None:
    first = write_artefacts(tmp_path / "first", seed=0)
    second = write_artefacts(tmp_path / "second", seed=1)
    publish(first, store, "train_dataset")
    # All files that differ are uploaded; the record that names them is not.
    command = [sys.executable, "-c", KILLED, str(second), store.url, "4"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    fetch(tmp_path / "fresh", store)
    for path in (first / "train_dataset").iterdir():
        assert (tmp_path / "fresh" / "train_dataset" / path.name).read_bytes() == path.read_bytes()
    publish(second, store, "train_dataset")
    fetch(tmp_path / "fresh", store, replace=True)
    for path in (second / "train_dataset").iterdir():
        assert (tmp_path / "fresh" / "train_dataset" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_artefact_is_not_published(s3: ObjectStore, tmp_path: Path) -> None:
    write_vectors(tmp_path, "text_embeddings", 0)
    path = tmp_path / "text_embeddings.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"text_embeddings\.parquet is damaged"):
        publish(tmp_path, s3, "text_embeddings")
    assert published_names(s3) == []


class LossyFileSystem(LocalFileSystem):
    """A disk that confirms every write and keeps all but the last byte, or flips its bits."""

    protocol = "lossy"
    flips = False

    def put_file(self, path1, path2, callback=None, **options):
        super().put_file(path1, path2, **options)
        place = Path(path2)
        content = place.read_bytes()
        kept = bytes(255 - byte for byte in content) if self.flips else content[:-1]
        place.write_bytes(kept)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("lossy://"))


@pytest.mark.parametrize("flips", [False, True])
def test_an_upload_that_arrives_changed_is_refused_and_stays_invisible(
    flips: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("lossy", LossyFileSystem, clobber=True)
    monkeypatch.setattr(LossyFileSystem, "flips", flips)
    (tmp_path / "disk").mkdir()
    store = ObjectStore(f"lossy://{tmp_path / 'disk'}")
    write_vectors(tmp_path, "text_embeddings", 0)
    with pytest.raises(PublishError, match=r"differs from .* after the upload"):
        publish(tmp_path, store, "text_embeddings")
    assert published_names(store) == []


def test_a_record_that_cannot_be_read_is_named(s3: ObjectStore, tmp_path: Path) -> None:
    write_vectors(tmp_path, "text_embeddings", 0)
    publish(tmp_path, s3, "text_embeddings")
    (tmp_path / "bad.json").write_text("{}")
    s3.upload(tmp_path / "bad.json", "published/text_embeddings.json")
    with pytest.raises(PublishError, match=r"published/text_embeddings\.json lacks name"):
        PublishedArtefact.read(s3, "text_embeddings")

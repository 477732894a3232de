"""Fetching verifies every file, overwrites nothing unasked, and never leaves the storage folder."""

import json
from pathlib import Path

import pytest

from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.publishing.fetch import Fetched, fetch
from mmctr_pipeline.publishing.publish import publish
from mmctr_pipeline.publishing.store import ObjectStore, PublishError
from mmctr_pipeline.registry.champion import Champion, best_model, previous_version
from mmctr_pipeline_tests.publishing.artefact_files import (
    contents,
    write_artefacts,
    write_champion,
    write_vectors,
)
from mmctr_pipeline_tests.publishing.test_publish import publish_all


def test_only_files_that_are_missing_are_fetched(s3: ObjectStore, tmp_path: Path) -> None:
    storage = write_artefacts(tmp_path / "storage")
    publish_all(storage, s3)
    before = contents(storage)
    size = (storage / "prediction.zip").stat().st_size
    (storage / "prediction.zip").unlink()
    (storage / "latest_model.pt").unlink()
    fetched = fetch(storage, s3, ["trained_model", "submission_csv"])
    assert fetched == [Fetched("trained_model", 0, 0), Fetched("submission_csv", 1, size)]
    assert contents(storage) == before


def test_a_champion_comes_with_the_models_that_it_is_compared_with_or_rolled_back_to(
    tmp_path: Path,
) -> None:
    storage, store = tmp_path / "storage", ObjectStore(f"file://{tmp_path / 'backup'}")
    _best, _, former, _ = [write_champion(storage, seed) for seed in range(4)]
    publish(storage, store, "champion")
    fresh = tmp_path / "fresh"
    fetch(fresh, store, ["champion"])
    champion = Champion.read(fresh)
    assert champion is not None
    assert champion.load(fresh).preset == "preset-3"
    assert best_model(fresh, champion).preset == "preset-0"
    assert previous_version(fresh, champion) == former
    assert len(list((fresh / "models").iterdir())) == 3


def test_files_that_differ_are_kept_unless_replacing_is_asked_for(
    s3: ObjectStore, tmp_path: Path
) -> None:
    published = write_artefacts(tmp_path / "published", seed=0)
    publish_all(published, s3)
    storage = write_artefacts(tmp_path / "storage", seed=1)
    before = contents(storage)
    with pytest.raises(PublishError, match=r"differ from .*text_embeddings\.parquet.* --replace"):
        fetch(storage, s3)
    assert contents(storage) == before
    fetch(storage, s3, replace=True)
    after = contents(storage)
    assert after | contents(published) == after
    # What the store does not have stays: the model that was here before.
    assert len(list((storage / "models").glob("*/model.pt"))) == 2


def test_an_object_that_was_changed_is_refused(
    s3: ObjectStore, objects: Path, tmp_path: Path
) -> None:
    write_vectors(tmp_path, "text_embeddings", 0)
    publish(tmp_path, s3, "text_embeddings")
    [stored] = objects.glob("text_embeddings-*.parquet")
    content = bytearray(stored.read_bytes())
    content[10] ^= 1
    stored.write_bytes(content)
    with pytest.raises(PublishError, match="content differs from the recorded SHA-256"):
        fetch(tmp_path / "fresh", s3)
    assert not (tmp_path / "fresh" / "text_embeddings.parquet").exists()


def test_a_store_without_artefacts_is_named(s3: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=f"nothing was published at {s3.url}"):
        fetch(tmp_path, s3)
    write_vectors(tmp_path, "text_embeddings", 0)
    publish(tmp_path, s3, "text_embeddings")
    with pytest.raises(PublishError, match="fused_pca was not published"):
        fetch(tmp_path, s3, ["fused_pca"])


@pytest.mark.parametrize(
    "place",
    [
        "../outside.parquet",
        "/tmp/outside.parquet",
        "models/../../outside.parquet",
        "models/x/../y.parquet",
        "models//y.parquet",
        "checkpoints/0123/checkpoint.pt",
        "train_dataset/train.parquet",
        ".hidden",
    ],
)
@pytest.mark.parametrize("field", ["files", "links", "target"])
def test_a_record_that_names_other_places_is_refused(
    field: str, place: str, tmp_path: Path
) -> None:
    store = ObjectStore(f"file://{tmp_path / 'backup'}")
    write_artefacts(tmp_path / "storage")
    publish(tmp_path / "storage", store, "text_embeddings")
    record = tmp_path / "backup" / "published" / "text_embeddings.json"
    content = json.loads(record.read_text())
    if field == "files":
        content["files"] = {place: content["files"]["text_embeddings.parquet"]}
    elif field == "links":
        content["links"] = {place: "text_embeddings.parquet"}
    else:
        content["links"] = {"text_embeddings.parquet": place}
    write_record(record, {key: value for key, value in content.items() if "crc" not in key})
    with pytest.raises(PublishError, match="which is no file of text_embeddings"):
        fetch(tmp_path / "fresh" / "storage", store)
    assert not (tmp_path / "fresh").exists()

"""A flipped bit in any artefact is noticed by its reader, or changes nothing that is read."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.ids import IdMap
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.io_managers import ParquetIOManager
from mmctr_pipeline.encoders.store.parquet_files import (
    KEY,
    encoder_folder,
    open_shard,
    read_last_used,
    shard_table,
    write_last_used,
    write_shard,
)
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.records import read_record
from mmctr_pipeline.files.tensors import load_tensors
from mmctr_pipeline.fusion.attention.transform import AttentionTransform
from mmctr_pipeline.fusion.pca import PcaTransform
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline_tests.files.flipped_bits import count_unnoticed, flips, plain, some_bits
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample

N_FLIPS = 150

Artefact = tuple[Path, Callable[[], Any]]
"""A file, and a function that reads it."""


def vectors() -> VectorTable:
    generator = np.random.default_rng(0)
    return VectorTable(
        np.arange(1, 51),
        generator.normal(size=(50, 8)).astype(np.float32),
        np.arange(50) % 7 > 0,
        "encoder:weights",
        {"counts": {"items": 50}, "config": {"checks": {"min": 0.5}}},
    )


def vector_table(folder: Path) -> Artefact:
    path = folder / "text_embeddings.parquet"
    vectors().write(path)
    return path, lambda: VectorTable.read(path)


def frame(kind: type) -> Callable[[Path], Artefact]:
    def write(folder: Path) -> Artefact:
        columns = {"item_id": [1, 2, 3], "title": ["a", None, "b"], "x": [0.5, 1.5, 2.5]}
        manager, path = ParquetIOManager(storage_dir=str(folder)), folder / "frame.parquet"
        manager.write(pa.table(columns) if kind is pa.Table else kind(columns), path)

        def read() -> Any:
            found = manager.read(path, kind)
            found = found.collect() if isinstance(found, pl.LazyFrame) else found
            return (
                found.to_dict() if isinstance(found, pd.DataFrame) else pl.DataFrame(found).rows()
            )

        return path, lambda: repr(read())

    return write


def dataset() -> CtrDataset:
    sample = small_sample(n_train=60, n_valid=30, n_users=40, n_items=20)[0]
    users = IdMap(np.arange(1, 41) * 10**9, is_identity=False)
    return dataclasses.replace(sample, users=users, provenance={"rows": 60})


def dataset_file(name: str) -> Callable[[Path], Artefact]:
    def write(folder: Path) -> Artefact:
        dataset().write(folder)
        return folder / f"{name}.parquet", lambda: CtrDataset.read(folder)

    return write


CONTENTS = np.frombuffer(bytes(range(96)), KEY)
"""Hashes of three titles."""


def shard(folder: Path) -> Artefact:
    encoder = folder / encoder_folder("encoder:1")
    table = shard_table(CONTENTS, np.arange(6, dtype=np.float32).reshape(3, 2), {1: "truncated"})
    path = write_shard(encoder, table, "encoder:1", "pillow 11", [{"parity_n": 3.0}])

    def read() -> Any:
        with open_shard(path) as stored:
            return [
                *(stored.identity, stored.reader, stored.notes, stored.contents.tobytes()),
                *(stored.reasons.tolist(), stored.read_vectors()),
            ]

    return path, read


def last_used(folder: Path) -> Artefact:
    days = np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[D]")
    write_last_used(folder, CONTENTS, days)
    return folder / "last_used.parquet", lambda: [str(part) for part in read_last_used(folder)]


def model(folder: Path) -> Artefact:
    path = folder / "model.pt"
    MODEL_FILE.save(path)
    return path, lambda: ModelFile.load(path)


def metrics(folder: Path) -> Artefact:
    path = write_version(folder, MODEL_FILE) / "metrics.json"
    return path, lambda: read_record(path)["metrics"]


def checkpoint(folder: Path) -> Artefact:
    checkpoints = Checkpoints(folder, every_seconds=0)
    checkpoints.save(lambda: {"module": {"w": torch.arange(9.0)}, "state": {"best_index": 2}})
    return checkpoints.path, lambda: load_tensors(checkpoints.path)


FITTED: dict[str, Any] = {
    "dim": 2,
    "text_dim": 3,
    "image_dim": 0,
    "text_identity": "titles",
    "image_identity": "none",
    "n_fitted_items": 9,
}
ARRAYS = ("mean", "components", "explained_variance_ratio")


def pca(folder: Path) -> Artefact:
    path = folder / "pca.pt"
    arrays = np.arange(3.0), np.eye(2, 3), np.array([0.6, 0.3])
    PcaTransform(**FITTED, **dict(zip(ARRAYS, arrays, strict=True)), input="raw").save(path)
    return path, lambda: PcaTransform.load(path)


def attention(folder: Path) -> Artefact:
    from mmctr_pipeline.fusion.attention.network import AttentionFusion

    path = folder / "attention.pt"
    weights = dict(AttentionFusion([3], 2, 4).state_dict())
    decoder = torch.arange(6.0).reshape(3, 2)
    AttentionTransform(
        **FITTED, score_dim=4, weights=weights, decoder=decoder, training={"n": 1}
    ).save(path)
    return path, lambda: AttentionTransform.load(path)


ARTEFACTS: dict[str, Callable[[Path], Artefact]] = {
    "vector table": vector_table,
    **{
        f"{kind.__module__.split('.')[0]} {kind.__name__}": frame(kind)
        for kind in (pl.DataFrame, pl.LazyFrame, pd.DataFrame, pa.Table)
    },
    **{
        f"train_dataset {name}": dataset_file(name)
        for name in ("train", "valid", "test", "items", "histories", "users")
    },
    "shard of the vector store": shard,
    "record of last use": last_used,
    "model": model,
    "metrics.json": metrics,
    "checkpoint": checkpoint,
    "pca transform": pca,
    "attention transform": attention,
}


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_flipped_bits_are_noticed_or_change_nothing(kind: str, tmp_path: Path) -> None:
    path, read = ARTEFACTS[kind](tmp_path)
    n_unnoticed = count_unnoticed(path, read, some_bits(path, N_FLIPS))
    # `count_unnoticed` itself asserts that an unnoticed flip changes nothing that is read. A few of
    # them are expected: if a flip damages the checksum's entry, the reader finds no checksum.
    assert n_unnoticed <= N_FLIPS * 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_many_flipped_bits_are_noticed_or_change_nothing(kind: str, tmp_path: Path) -> None:
    path, read = ARTEFACTS[kind](tmp_path)
    count_unnoticed(path, read, some_bits(path, 1_500, seed=1))  # holds the assertions


@pytest.mark.parametrize("member", ["train", "valid", "test", "items", "users"])
def test_a_member_of_an_older_dataset_is_noticed(member: str, tmp_path: Path) -> None:
    older = small_sample(n_train=60, n_valid=30, n_users=40, n_items=21, seed=1)[0]
    users = IdMap(np.arange(1, 41) * 10**10, is_identity=False)
    datasets = {"old": dataclasses.replace(older, users=users), "new": dataset()}
    for name, written in datasets.items():
        (tmp_path / name).mkdir()
        written.write(tmp_path / name)
    (tmp_path / "old" / f"{member}.parquet").replace(tmp_path / "new" / f"{member}.parquet")
    with pytest.raises(DamagedFileError, match=rf"{member}\.parquet is not the file"):
        CtrDataset.read(tmp_path / "new")


@pytest.mark.parametrize("member", ["train", "valid", "test", "items", "histories", "users"])
def test_a_missing_member_of_a_dataset_is_noticed(member: str, tmp_path: Path) -> None:
    dataset().write(tmp_path)
    (tmp_path / f"{member}.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{member}\.parquet"):
        CtrDataset.read(tmp_path)


def test_a_damaged_checkpoint_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = checkpoint(tmp_path)
    checkpoints, device = Checkpoints(tmp_path, every_seconds=0), torch.device("cpu")
    for _ in flips(path, some_bits(path, 40)):
        caplog.clear()
        assert checkpoints.load(device) is None
        assert caplog.messages[0].endswith("training from the beginning")
        assert str(path) in caplog.messages[0]
    assert checkpoints.load(device) is not None


def test_artefacts_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Earlier versions wrote no checksum of the whole file."""
    table, written = vectors(), dataset()
    pq.write_table(table.to_arrow(), tmp_path / "vectors.parquet")
    found = VectorTable.read(tmp_path / "vectors.parquet")
    assert found.content_hash() == table.content_hash()
    assert (found.identity, found.provenance) == (table.identity, table.provenance)

    written = dataclasses.replace(written, users=None)
    written.write(tmp_path)
    for name in ("train", "valid", "test", "items", "histories"):
        path = tmp_path / f"{name}.parquet"
        old = pq.read_table(path)
        kept = {
            key: value
            for key, value in (old.schema.metadata or {}).items()
            if key in (b"mmctr.fingerprint", b"mmctr.provenance")
        }
        pq.write_table(old.replace_schema_metadata(kept), path)
    assert np.array_equal(CtrDataset.read(tmp_path).train.item_id, written.train.item_id)

    path, read = shard(tmp_path)
    stored, metadata = read(), pq.read_schema(path).metadata
    del metadata[b"mmctr.crc32"]
    rows = pq.read_table(path).replace_schema_metadata(metadata)
    pq.write_table(rows, path, use_dictionary=False, write_page_checksum=True)
    assert plain(read()) == plain(stored)

    content = {"format": "mmctr_pipeline.model", "format_version": 1, **vars(MODEL_FILE)}
    torch.save(content, tmp_path / "model.pt")
    assert ModelFile.load(tmp_path / "model.pt").description() == MODEL_FILE.description()
    (tmp_path / "record.json").write_text(json.dumps({"a": 1}))
    assert read_record(tmp_path / "record.json") == {"a": 1}

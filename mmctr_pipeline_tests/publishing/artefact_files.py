"""A storage folder with a small artefact of every asset, and files that are not published."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_folder, write_text
from mmctr_pipeline.files.parquet import write_parquet
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.files.tensors import save_tensors
from mmctr_pipeline.publishing.artefacts import ARTEFACTS
from mmctr_pipeline.publishing.store import ObjectStore
from mmctr_pipeline.registry.champion import Champion, succeed
from mmctr_pipeline.registry.versions import write_report, write_version
from mmctr_pipeline.submission.files import write_submission
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample

LOCAL = ("checkpoints/0123/checkpoint.pt", "vectors/text/shard.parquet", "run_config.yaml")
"""Files in the storage folder that are not published."""


def write_artefacts(storage: Path, seed: int = 0) -> Path:
    """Write every artefact; another seed gives other contents. Return the storage folder."""
    for name in ("text_embeddings", "image_embeddings", "fused_pca"):
        write_vectors(storage, name, seed)
    for name in ("image_problems", "item_info_fused_multimodal"):
        write_parquet(pa.table({"item_id": [seed]}), storage / f"{name}.parquet")
    (storage / "neighbours.png").write_bytes(b"\x89PNG" + bytes([seed]))
    (storage / "transforms").mkdir(exist_ok=True)
    save_tensors(storage / "transforms" / f"pca-{seed}.pt", {"seed": seed})
    write_record(storage / "transforms" / "made-by-0123.json", {"transform": f"pca:{seed}"})
    with atomic_folder(storage / "train_dataset") as folder:
        small_sample(60, 30, 20, seed=seed)[0].write(folder)
    write_report(storage, write_champion(storage, seed), f"<p>report {seed}</p>")
    write_record(storage / "contest.json", {"seed": seed})
    frame = pl.DataFrame({"ID": [1, 2], "Task1&2": [0.25, seed / 10]})
    write_submission(frame, storage / "submission.csv", storage / "prediction.zip")
    for path in LOCAL:
        write_text(storage / path, "stays here")
    return storage


def write_champion(storage: Path, seed: int) -> str:
    """Write a model, make it the champion, and return its version; the first one stays the best."""
    version = write_version(storage, dataclasses.replace(MODEL_FILE, preset=f"preset-{seed}")).name
    succeed(storage, Champion.read(storage), version, "a test").write(storage)
    return version


def write_vectors(storage: Path, name: str, seed: int) -> None:
    """Write one of the vector tables."""
    storage.mkdir(parents=True, exist_ok=True)
    vectors = np.full((2, 4), seed + 1, np.float32)
    VectorTable(np.array([1, 2]), vectors, np.ones(2, bool), f"{name}:{seed}").write(
        storage / f"{name}.parquet"
    )


def contents(storage: Path) -> dict[str, bytes]:
    """Return the content of each published file, and the targets of the links to models."""
    found = {
        path.relative_to(storage).as_posix(): path.read_bytes()
        for path in sorted(storage.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name[0] != "."
    }
    folder = (storage / "train_dataset").resolve()
    found = {path: content for path, content in found.items() if path[0] != "."}
    found |= {f"train_dataset/{path.name}": path.read_bytes() for path in folder.iterdir()}
    for link in ("best_model.pt", "latest_model.pt", "latest_report.html"):
        found[link] = str((storage / link).readlink()).encode()
    return {path: content for path, content in found.items() if path not in LOCAL}


def published_names(store: ObjectStore) -> list[str]:
    """Return the assets that a store has records of."""
    return [name for name in ARTEFACTS if store.size(f"published/{name}.json")]

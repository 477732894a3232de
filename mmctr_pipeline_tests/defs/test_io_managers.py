"""Tables of every frame library round-trip, and a killed writer leaves the earlier artefact."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.io_managers import ParquetIOManager, io_managers
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.publishing.fetch import fetch
from mmctr_pipeline.publishing.store import ObjectStore
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample

COLUMNS = {"item_id": [1, 2], "title": ["a", None]}


def _round_trip(kind: type, value: Any, folder: Path) -> Any:
    """Store `value` as an asset, and return what an asset that reads it as `kind` gets."""
    seen = []

    def written():
        return value

    def reader(context, written):
        seen.append(written)

    reader.__annotations__ = {"written": kind, "return": None}
    assets = [
        dg.asset(name="written", io_manager_key="parquet_io")(written),
        dg.asset(name="reader", io_manager_key="parquet_io")(reader),
    ]
    result = dg.materialize(
        assets, resources={"parquet_io": ParquetIOManager(storage_dir=str(folder))}
    )
    assert result.success
    return seen[0]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (pl.DataFrame(COLUMNS), pl.DataFrame),
        (pl.LazyFrame(COLUMNS), pl.LazyFrame),
        (pd.DataFrame(COLUMNS), pd.DataFrame),
        (pa.table(COLUMNS), pa.Table),
        (pa.table(COLUMNS), pl.DataFrame),
    ],
)
def test_frames_round_trip(value: Any, kind: type, tmp_path: Path) -> None:
    back = _round_trip(kind, value, tmp_path)
    assert isinstance(back, kind)
    if isinstance(back, pl.LazyFrame):
        back = back.collect()
    elif not isinstance(back, pl.DataFrame):
        back = pl.from_pandas(back) if isinstance(back, pd.DataFrame) else pl.from_arrow(back)
    assert back.to_dict(as_series=False) == COLUMNS
    assert (tmp_path / "written.parquet").is_file()


def test_vector_tables_round_trip_with_identity_and_provenance(tmp_path: Path) -> None:
    table = VectorTable(
        item_id=np.array([3, 7], np.int32),
        vectors=np.array([[1.5, -2.0], [0, 0]], np.float32),
        present=np.array([True, False]),
        identity="an encoder",
        provenance={"counts": {"missing": 1}},
    )
    back = _round_trip(VectorTable, table, tmp_path)
    assert np.array_equal(back.vectors, table.vectors)
    assert np.array_equal(back.item_id, table.item_id)
    assert np.array_equal(back.present, table.present)
    assert (back.identity, back.provenance) == (table.identity, table.provenance)


def test_an_unsupported_type_is_refused_and_named(tmp_path: Path) -> None:
    manager = ParquetIOManager(storage_dir=str(tmp_path))
    with pytest.raises(TypeError, match="dict"):
        manager.write({"a": 1}, tmp_path / "x.parquet")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.io_managers import ParquetIOManager

real = pq.write_table

def write_half_and_die(table, path, **options):
    real(table, path, **options)
    with open(path, "r+b") as file:
        file.truncate(100)
    os.kill(os.getpid(), signal.SIGKILL)

pq.write_table = write_half_and_die
table = VectorTable(np.array([1], np.int32), np.ones((1, 4), np.float32), np.ones(1, bool), "new")
folder = Path(sys.argv[1])
ParquetIOManager(storage_dir=str(folder)).write(table, folder / "text_embeddings.parquet")
"""


def test_a_kill_while_writing_leaves_the_earlier_artefact(tmp_path: Path) -> None:
    earlier = VectorTable(
        np.array([1], np.int32), np.ones((1, 4), np.float32), np.ones(1, bool), "earlier"
    )
    path = tmp_path / "text_embeddings.parquet"
    manager = ParquetIOManager(storage_dir=str(tmp_path))
    manager.write(earlier, path)
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert VectorTable.read(path).identity == "earlier"
    # The next writer removes the leftovers of the killed one.
    manager.write(earlier, path)
    assert os.listdir(tmp_path) == ["text_embeddings.parquet"]


def _vectors() -> VectorTable:
    return VectorTable(np.array([1]), np.ones((1, 4), np.float32), np.ones(1, bool), "x")


ASSETS: dict[str, tuple[str, Any, str]] = {
    "text_embeddings": ("parquet_io", _vectors, "text_embeddings.parquet"),
    "train_dataset": (
        "dataset_io",
        lambda: small_sample(60, 30, 20)[0],
        "train_dataset/train.parquet",
    ),
    "trained_model": ("model_io", lambda: MODEL_FILE, "latest_model.pt"),
}


@pytest.mark.parametrize("damage", ["bit flipped", "cut off", "removed"])
@pytest.mark.parametrize("name", ASSETS)
def test_a_damaged_artefact_is_named_with_the_command_that_makes_it_again(
    name: str, damage: str, tmp_path: Path
) -> None:
    manager, make, file = ASSETS[name]
    resources = io_managers(str(tmp_path))
    resources[manager].write(make(), resources[manager]._path(dg.AssetKey(name)))
    path = tmp_path / file
    if damage == "removed":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "bit flipped" else content[:-7])
    context = dg.build_input_context(
        asset_key=dg.AssetKey(name), dagster_type=dg.PythonObjectDagsterType(VectorTable)
    )
    with pytest.raises((DamagedFileError, FileNotFoundError)) as raised:
        resources[manager].load_input(context)
    assert Path(file).name in str(raised.value) or path.resolve().name in str(raised.value)
    command = f"(dagster asset materialize --select {name} -m mmctr_pipeline.definitions)"
    assert str(raised.value).endswith(command)


def test_a_written_artefact_is_published(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'backup'}"

    @dg.asset(name="text_embeddings", io_manager_key="parquet_io")
    def written() -> VectorTable:
        return _vectors()

    result = dg.materialize([written], resources=io_managers(str(tmp_path / "storage"), url))
    [materialization] = result.asset_materializations_for_node("text_embeddings")
    assert materialization.metadata["published"].value == f"{url}/published/text_embeddings.json"
    fetch(tmp_path / "fresh", ObjectStore(url))
    assert VectorTable.read(tmp_path / "fresh" / "text_embeddings.parquet").identity == "x"


def test_if_a_model_cannot_be_published_its_step_fails_and_the_checkpoint_stays(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    checkpoint = Checkpoints.for_run(tmp_path, MODEL_FILE.run_key).folder
    checkpoint.mkdir(parents=True)

    @dg.asset(io_manager_key="model_io")
    def trained_model() -> Any:
        return MODEL_FILE

    def materialise(url: str | None) -> dg.ExecuteInProcessResult:
        resources = io_managers(str(tmp_path), url)
        return dg.materialize([trained_model], resources=resources, raise_on_error=False)

    result = materialise(f"file://{tmp_path / 'file' / 'below'}")
    assert not result.success
    [failure] = result.get_step_failure_events()
    error = failure.event_specific_data.error_display_string
    assert f"file://{tmp_path / 'file' / 'below'}: [Errno 20] Not a directory" in error
    assert (tmp_path / "latest_model.pt").is_file()
    assert checkpoint.is_dir()
    assert materialise(f"file://{tmp_path / 'backup'}").success
    assert not checkpoint.exists()

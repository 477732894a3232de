"""A second run encodes and fits only what is new."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import in_process

VECTORS = ("text_embeddings", "image_embeddings", "fused_pca")


@pytest.fixture
def storage(finished_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the storage folder of the finished run."""
    return finished_run.copy(tmp_path).storage


def _run(data: Path, storage: Path, **fusion: Any) -> dict[str, dict[str, Any]]:
    """Materialise the vectors in this process; return the metadata by asset."""
    selection = dg.AssetSelection.assets(*VECTORS).without_checks()
    config = {"ops": {"fused_pca": {"config": {"fusion": fusion}}}} if fusion else {}
    result = in_process(data, storage, selection).execute_in_process(run_config=config)
    return {
        name: {
            key: value.value
            for key, value in result.asset_materializations_for_node(name)[0].metadata.items()
        }
        for name in VECTORS
    }


def _read(storage: Path) -> dict[str, VectorTable]:
    return {name: VectorTable.read(storage / f"{name}.parquet") for name in VECTORS}


def test_a_second_run_encodes_nothing_and_gives_the_same_bits(
    finished_run: FinishedRun, storage: Path
) -> None:
    before = _read(storage)
    again = _run(finished_run.deployment.data, storage)
    assert again["text_embeddings"]["encoded"] == 0
    assert again["text_embeddings"]["reused"] > 200
    assert again["image_embeddings"]["encoded"] == 0
    assert again["image_embeddings"]["reused"] > 200
    assert again["fused_pca"]["transform used again"] is True
    for name, table in _read(storage).items():
        assert table.content_hash() == before[name].content_hash()
        assert table.identity == before[name].identity


def test_only_a_changed_title_is_encoded(
    finished_run: FinishedRun, storage: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(finished_run.deployment.data, tmp_path / "data")
    path = find_data(data).item_feature
    table = pq.read_table(path)
    titles = table.column("item_title").to_pylist()
    titles[5] = "A new title"
    column = table.schema.get_field_index("item_title")
    pq.write_table(table.set_column(column, "item_title", pa.array(titles, pa.string())), path)
    before = _read(storage)["text_embeddings"]
    changed = _run(data, storage)
    assert changed["text_embeddings"]["encoded"] == 1
    assert changed["image_embeddings"]["encoded"] == 0
    after = _read(storage)["text_embeddings"]
    differ = np.flatnonzero((after.vectors != before.vectors).any(axis=1))
    assert after.item_id[differ].tolist() == [table.column("item_id").to_pylist()[5]]
    # The data are in another folder, and a transform is used only for the folder it was fitted on.
    assert changed["fused_pca"]["transform used again"] is False


@pytest.mark.slow
def test_refit_fits_the_transform_again(finished_run: FinishedRun, storage: Path) -> None:
    again = _run(finished_run.deployment.data, storage, refit=True)
    assert again["fused_pca"]["transform used again"] is False


@pytest.mark.slow
def test_attention_fusion_is_chosen_in_the_config_then_stored_and_reused(
    finished_run: FinishedRun, storage: Path
) -> None:
    data = finished_run.deployment.data
    first = _read(storage)["fused_pca"]
    fusion: dict[str, Any] = {"method": "attention", "attention": {"max_epochs": 2}}
    learned = _run(data, storage, **fusion)
    assert learned["fused_pca"]["method"] == "attention"
    assert learned["fused_pca"]["transform used again"] is False
    assert learned["fused_pca"]["learning"].startswith("![loss by epoch](data:image/png;base64,")
    fused = VectorTable.read(storage / "fused_pca.parquet")
    assert fused.identity.startswith("attention")
    assert fused.provenance["method"] == "attention"
    info = pq.read_table(storage / "custom_item_embeddings.parquet")
    assert len(info.column("item_emb_d128")[1]) == fused.dim
    again = _run(data, storage, **fusion)
    assert again["fused_pca"]["transform used again"] is True
    np.testing.assert_array_equal(
        VectorTable.read(storage / "fused_pca.parquet").vectors, fused.vectors
    )
    # The transform of the first method is still stored, and gives the same vectors.
    back = _run(data, storage)
    assert back["fused_pca"]["method"] == "pca_each"
    assert back["fused_pca"]["transform used again"] is True
    assert _read(storage)["fused_pca"].content_hash() == first.content_hash()

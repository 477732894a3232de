"""`mmctr atlas` writes the catalogue as Embedding Atlas reads it."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting import atlas
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401


def test_each_item_with_a_vector_has_its_title_and_cover(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables = finished_run.deployment.environment()
    for name in ("MMCTR_DATA_DIR", "MMCTR_STORAGE_DIR"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.setattr(atlas, "_ROWS_PER_GROUP", 50)
    assert main(["atlas", str(tmp_path / "items.parquet")]) == 0
    table = pq.read_table(tmp_path / "items.parquet")
    vectors = VectorTable.read(finished_run.deployment.storage / "fused_pca.parquet")
    rows = np.flatnonzero(vectors.present)
    assert capsys.readouterr().out.startswith(f"{len(rows):,} items; look at them with: ")
    assert table.column("item_id").to_pylist() == vectors.item_id[rows].tolist()
    np.testing.assert_array_equal(table.column("vector").to_pylist(), vectors.vectors[rows])
    dataset = CtrDataset.read(finished_run.deployment.storage / "train_dataset")
    titles = dict(zip(dataset.items.ids.tolist(), dataset.items.title.to_pylist(), strict=True))
    images = find_data(finished_run.deployment.data).images
    assert images is not None
    n_covers = 0
    for row in table.select(["item_id", "title", "cover"]).to_pylist():
        assert row["title"] == (titles[row["item_id"]] or "")
        if row["cover"] is not None:
            picture = Image.open(io.BytesIO(row["cover"]["bytes"]))
            assert max(picture.size) == 96
            n_covers += 1
    assert 0 < n_covers <= len(table)
    n_histories = np.bincount(dataset.train.history, minlength=len(dataset.histories))
    total = len(dataset.train) + int((n_histories * dataset.histories.lengths).sum())
    assert 0 < sum(table.column("train_rows").to_pylist()) <= total

"""`mmctr atlas` writes the catalogue as Embedding Atlas reads it."""

import io
import shlex
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
from mmctr_pipeline_tests.docs.test_commands import DOCUMENTS, commands


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
    start, _, advice = capsys.readouterr().out.partition(" items; look at them with: ")
    assert start == f"{len(rows):,}"
    for command in (shlex.split(advice), *_documented_commands()):
        options = dict(zip(command[2::2], command[3::2], strict=True))
        assert options == {"--vector": "vector", "--text": "title"}, command
        assert set(options.values()) <= set(table.column_names)
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
            # The viewer knows a picture by the suffix of this path.
            assert row["cover"]["path"] == f"{row['item_id']}.jpg"
            n_covers += 1
    assert 0 < n_covers <= len(table)
    n_histories = np.bincount(dataset.train.history, minlength=len(dataset.histories))
    total = len(dataset.train) + int((n_histories * dataset.histories.lengths).sum())
    assert 0 < sum(table.column("train_rows").to_pylist()) <= total


def _documented_commands() -> list[list[str]]:
    found = [
        command
        for document in DOCUMENTS
        for command in commands(document.read_text(encoding="utf-8"))
        if Path(command[0]).name == "embedding-atlas" and len(command) > 1
    ]
    assert found
    return found

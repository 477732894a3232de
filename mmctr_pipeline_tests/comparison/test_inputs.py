"""What is compared is trained on: written, read back, told apart."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.comparison.inputs import TrainingInputs, best_possible_auc
from mmctr_pipeline.sample.paths import SamplePaths
from mmctr_pipeline_tests.comparison.board_runs import small_inputs


def test_they_come_back_as_they_were_written(tmp_path: Path) -> None:
    inputs = small_inputs()
    folder = inputs.write(tmp_path)
    assert folder == tmp_path / inputs.key
    read = TrainingInputs.read(folder)
    assert read.key == inputs.key
    np.testing.assert_array_equal(read.dataset.valid.label, inputs.dataset.valid.label)
    for name in ("vectors", "text", "image"):
        table, other = getattr(inputs, name), getattr(read, name)
        np.testing.assert_array_equal(table.vectors, other.vectors)
        assert table.identity == other.identity
    assert read.modalities == {"text": read.text, "image": read.image}
    written = (folder / "train.parquet").stat().st_mtime_ns
    assert inputs.write(tmp_path) == folder
    assert (folder / "train.parquet").stat().st_mtime_ns == written


def test_other_contents_have_another_key() -> None:
    inputs = small_inputs()
    keys = {inputs.key}
    for name in ("vectors", "text", "image"):
        table = getattr(inputs, name)
        other = dataclasses.replace(table, vectors=table.vectors + 1)
        keys.add(dataclasses.replace(inputs, **{name: other}).key)
    other_rows = dataclasses.replace(inputs.dataset, fingerprint="other rows")
    keys.add(dataclasses.replace(inputs, dataset=other_rows).key)
    assert len(keys) == 5


def test_the_best_possible_auc_is_that_of_the_true_probabilities(
    small_sample: Path, tmp_path: Path
) -> None:
    truth = pq.read_table(SamplePaths(small_sample).truth).to_pylist()
    valid = [row for row in truth if row["split"] == "valid"]
    whole = json.loads(SamplePaths(small_sample).summary.read_text())["best_possible_auc"]
    every = np.ones(len(valid), bool)
    assert best_possible_auc(small_sample, every) == pytest.approx(whole)
    mask = np.arange(len(valid)) % 3 == 0
    ahead = [
        (a["probability"] > b["probability"]) + 0.5 * (a["probability"] == b["probability"])
        for a in valid[::3]
        for b in valid[::3]
        if a["label"] == 1 and b["label"] == 0
    ]
    assert best_possible_auc(small_sample, mask) == pytest.approx(np.mean(ahead))
    assert best_possible_auc(tmp_path, mask) is None

"""The best possible AUC, by which a table on a sample dataset is judged."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.comparison.output import best_possible_auc
from mmctr_pipeline.sample.config import SamplePaths


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

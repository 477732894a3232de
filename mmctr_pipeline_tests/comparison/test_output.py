"""The best possible AUC on a sample dataset follows from its true probabilities."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.comparison.output import best_possible_auc
from mmctr_pipeline.sample.config import SamplePaths
from mmctr_pipeline_tests.data.read_folders import read_folder


def test_the_best_possible_auc_is_that_of_the_true_probabilities(
    small_sample: Path, tmp_path: Path
) -> None:
    truth = pq.read_table(SamplePaths(small_sample).truth).to_pylist()
    valid = [row for row in truth if row["split"] == "valid"]
    whole = json.loads(SamplePaths(small_sample).summary.read_text())["best_possible_auc"]
    all_rows = np.ones(len(valid), bool)
    dataset = read_folder(small_sample)
    assert best_possible_auc(small_sample, dataset, all_rows) == pytest.approx(whole)
    is_third = np.arange(len(valid)) % 3 == 0
    clicked = [row["probability"] for row in valid[::3] if row["label"] == 1]
    others = [row["probability"] for row in valid[::3] if row["label"] == 0]
    wins = [(a > b) + 0.5 * (a == b) for a in clicked for b in others]
    assert best_possible_auc(small_sample, dataset, is_third) == pytest.approx(np.mean(wins))
    assert best_possible_auc(tmp_path, dataset, is_third) is None

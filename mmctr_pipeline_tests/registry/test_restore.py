"""A training begins with the champion's weights only if the valid rows are new to the champion."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.registry.champion import succeed
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.restore import champions_weights
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.registry.model_files import small_model_file
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

WINDOW = {
    "day": "2026-01-09",
    "train_rows": {"2026-01-06": 100, "2026-01-07": 100},
    "valid_days": ["2026-01-08", "2026-01-09"],
}
FINAL_FIT = {"n_epochs": 1, "n_rows": 9, "train_loss": 0.5, "seconds": 1}


@pytest.fixture(scope="module")
def small() -> tuple[CtrDataset, ModelFile]:
    dataset, vectors = small_sample(n_train=200)
    trained = train_ctr(dataset, vectors, SMALL_MODEL, QUICK_TRAINING, torch.device("cpu"))
    return dataset, small_model_file(trained, vectors)


@pytest.mark.parametrize(
    ("by_day", "champion", "is_usable"),
    [
        (True, {"data_day": "2026-01-08", "last_train_day": "2026-01-06"}, True),
        (True, {"data_day": "2026-01-08", "last_train_day": "2026-01-08"}, False),
        # The champion is of a later day, as when a past day is built again.
        (True, {"data_day": "2026-01-20", "last_train_day": "2026-01-18"}, False),
        # Files of earlier versions do not say how far their train days went.
        (True, {"data_day": "2026-01-07"}, True),
        (True, {"data_day": "2026-01-08"}, False),
        (True, {}, False),
        (False, {}, True),
        (False, {"final_fit": FINAL_FIT}, False),
    ],
)
def test_the_champion_must_not_have_seen_valid_rows(
    by_day: bool,
    champion: dict[str, Any],
    is_usable: bool,
    small: tuple[CtrDataset, ModelFile],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    dataset, model_file = small
    provenance = {"window": WINDOW} if by_day else {}
    dataset = dataclasses.replace(dataset, provenance=provenance)
    version = write_version(tmp_path, dataclasses.replace(model_file, **champion)).name
    succeed(tmp_path, None, version, "the first one").write(tmp_path)
    start = champions_weights(tmp_path, dataset, "champion")
    by_itself = champions_weights(tmp_path, dataset, "auto")
    assert (by_itself is not None) == (is_usable and by_day)
    assert champions_weights(tmp_path, dataset, "never") is None
    if is_usable:
        assert start is not None
        assert (start.name, start.last_train_day) == (version, champion.get("last_train_day", ""))
    else:
        assert start is None
        assert "may have been trained on valid rows of these data" in caplog.text


def test_without_a_champion_training_is_from_scratch(
    small: tuple[CtrDataset, ModelFile], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert champions_weights(tmp_path, small[0], "champion") is None
    assert "from scratch: there is no champion yet" in caplog.text

"""The faults of the week's bad nights are what they claim to be."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.week import BAD_DATA, WEEK, Night, faults, spoiled
from mmctr_pipeline import pipeline
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.days import generate_days


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("days")
    generate_days(SampleConfig.scaled(0.03, days=1, images=False), folder)
    return folder


def load(folder: Path, day: str | None = None) -> CtrDataset:
    return pipeline.load_dataset(find_data(folder), DataConfig(day=day, min_valid_rows=1))


def with_fault(sample: Path, kind: str, folder: Path) -> tuple[Path, str]:
    """Return a copy of the data whose last day has the fault, and that day."""
    data = shutil.copytree(sample, folder / "data")
    day = load(sample).day
    spoiled(kind, data / "interactions" / f"day={day}")
    return data, day


def test_corrupt_data_cannot_be_read(sample: Path, tmp_path: Path) -> None:
    data, day = with_fault(sample, "corrupt", tmp_path)
    with pytest.raises(
        DataError, match=f"day={day}/part-0000.parquet: not a readable parquet file"
    ):
        load(data)


def test_reversed_labels_are_all_reversed(sample: Path, tmp_path: Path) -> None:
    data, _ = with_fault(sample, "reversed labels", tmp_path)
    before, after = load(sample).valid, load(data).valid
    assert before.label is not None
    np.testing.assert_array_equal(after.label, 1 - before.label)
    np.testing.assert_array_equal(after.item_id, before.item_id)


def test_a_half_written_day_is_refused_by_name_and_is_not_the_latest(
    sample: Path, tmp_path: Path
) -> None:
    data, day = with_fault(sample, "half written", tmp_path)
    assert load(data).day < day
    with pytest.raises(DataError, match=f"day={day}: the day is not complete"):
        load(data, day)


def test_a_week_has_each_fault_once_and_more_good_nights_than_any() -> None:
    faults = [kind for kind in WEEK if kind != "good"]
    assert sorted(faults) == ["corrupt", "half written", "killed", "reversed labels"]
    assert WEEK.count("good") == 3


def _week(**changed: object) -> list[Night]:
    """Return a week as it should go; `changed` are fields of its nights of one kind."""
    nights = []
    for number, kind in enumerate(("first", *WEEK)):
        is_bad = kind in BAD_DATA
        night = Night(
            kind=kind,
            day=f"day {number}",
            status=int(is_bad),
            seconds=1.0,
            before=f"model {number - 1}",
            after=f"model {number - 1 if is_bad else number}",
            is_submission_new=not is_bad,
            reason="the reason",
        )
        nights.append(dataclasses.replace(night, **changed.get(kind, {})))  # type: ignore[arg-type]
    return nights


def _faults(loss: float = 0.001, drift: float = 0.05, **changed: object) -> list[str]:
    return faults(_week(**changed), {"largest_loss_by_promotion": loss, "frozen_loss": drift})


def test_a_week_as_it_should_go_has_no_faults() -> None:
    assert _faults() == []


def test_each_fault_of_a_week_is_found() -> None:
    assert _faults(loss=0.004) == ["a promoted model loses 0.0040 AUC on the next day, above 0.003"]
    assert _faults(drift=0.004) == ["the data hardly drift: the first champion loses 0.0040"]
    assert _faults(corrupt={"status": 0}) == ["day 2 (corrupt) shipped bad data"]
    assert _faults(corrupt={"is_submission_new": True}) == ["day 2 (corrupt) shipped bad data"]
    assert _faults(killed={"status": 1}) == ["day 4 (killed) failed: the reason"]
    rejected = {"before": "the same", "after": "the same"}
    assert _faults(good=rejected) == ["fewer than half of the good nights promote"]

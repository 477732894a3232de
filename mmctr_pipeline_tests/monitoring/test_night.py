"""A night becomes the accepted one when its data have passed and its submission is written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.monitoring.night import (
    BlockedDataError,
    Night,
    Verdict,
    accept_latest,
    check_data,
    check_scores,
    require_not_blocked,
)
from mmctr_pipeline.monitoring.profile import DataProfile, profile_scores
from mmctr_pipeline_tests.monitoring.drawn_nights import Population

LIMITS = MonitoringConfig()
SCORES = profile_scores(np.linspace(0.1, 0.6, 900), 500)
GOOD, SHIFTED = Population(), Population(clicks=0.1)


def check(profile: DataProfile, storage: Path) -> Verdict:
    return check_data(profile, storage, LIMITS)


def submit(profile: DataProfile, storage: Path, limits: MonitoringConfig = LIMITS) -> Verdict:
    return check_scores(SCORES, storage, profile.fingerprint, limits)


def accepted_fingerprint(storage: Path) -> str | None:
    accepted = Night.read(storage, "accepted")
    return accepted.profile.fingerprint if accepted else None


def test_the_first_night_says_that_there_is_nothing_to_compare_with(
    layout: DataLayout, tmp_path: Path
) -> None:
    night = GOOD.night(1, layout)
    skipped = "the first night: there is no accepted night to compare with"
    assert check(night, tmp_path) == Verdict([], skipped=skipped)
    assert accepted_fingerprint(tmp_path) is None
    assert submit(night, tmp_path) == Verdict([], skipped=skipped)
    assert Night.read(tmp_path, "accepted") == Night(night, SCORES)


def test_a_blocked_night_is_never_accepted_whatever_is_submitted(
    layout: DataLayout, tmp_path: Path
) -> None:
    good, shifted = GOOD.night(1, layout), SHIFTED.night(2, layout)
    for night, is_blocked in ((good, False), (shifted, True), (shifted, True), (good, False)):
        verdict = check(night, tmp_path)
        assert bool(verdict.blocked) == is_blocked
        submit(night, tmp_path)
        assert accepted_fingerprint(tmp_path) == good.fingerprint
    verdict = check(shifted, tmp_path)
    assert verdict.blocked.startswith("train.label_rate: 0.0")
    assert verdict.blocked.endswith("if the change is meant, run `mmctr accept` first")
    with pytest.raises(BlockedDataError, match=r"the data are blocked: train\.label_rate: 0\.0"):
        require_not_blocked(tmp_path, shifted.fingerprint)
    require_not_blocked(tmp_path, good.fingerprint)


def test_an_accepted_change_is_what_later_nights_are_compared_with(
    layout: DataLayout, tmp_path: Path
) -> None:
    assert accept_latest(tmp_path) is None
    good, shifted = GOOD.night(1, layout), SHIFTED.night(2, layout)
    check(good, tmp_path)
    submit(good, tmp_path)
    assert check(shifted, tmp_path).blocked
    night = accept_latest(tmp_path)
    assert night is not None
    assert night.blocked.startswith("train.label_rate")
    require_not_blocked(tmp_path, shifted.fingerprint)
    assert not check(SHIFTED.night(3, layout), tmp_path).blocked
    assert "no scores" in submit(SHIFTED.night(3, layout), tmp_path).skipped
    assert check(good, tmp_path).blocked


def test_data_that_were_not_the_last_to_be_checked_are_not_accepted(
    layout: DataLayout, tmp_path: Path
) -> None:
    checked, other = GOOD.night(1, layout), GOOD.night(2, layout)
    assert "have not been checked" in submit(other, tmp_path).skipped
    check(checked, tmp_path)
    assert "have not been checked" in submit(other, tmp_path).skipped
    assert accepted_fingerprint(tmp_path) is None


def test_scores_above_a_blocking_level_are_not_accepted(layout: DataLayout, tmp_path: Path) -> None:
    first, second = GOOD.night(1, layout), GOOD.night(2, layout)
    other_scores = profile_scores(np.linspace(0.5, 0.99, 900), 500)
    check(first, tmp_path)
    submit(first, tmp_path)
    check(second, tmp_path)
    strict = MonitoringConfig(score_psi_block=0.5)
    verdict = check_scores(other_scores, tmp_path, second.fingerprint, strict)
    assert verdict.blocked.startswith("submission.scores: PSI")
    assert accepted_fingerprint(tmp_path) == first.fingerprint
    verdict = check_scores(other_scores, tmp_path, second.fingerprint, LIMITS)
    assert {finding.severity for finding in verdict.findings} == {"warn"}
    assert accepted_fingerprint(tmp_path) == second.fingerprint


def test_an_earlier_day_is_neither_compared_nor_accepted(
    layout: DataLayout, tmp_path: Path
) -> None:
    days = ("2026-11-02", "2026-11-01", "2026-11-03")
    nights = [
        dataclasses.replace(population.night(seed, layout), day=day)
        for seed, (population, day) in enumerate(zip((GOOD, SHIFTED, GOOD), days, strict=True))
    ]
    found = []
    for night in nights:
        verdicts = check(night, tmp_path), submit(night, tmp_path)
        found.append((*(verdict.skipped for verdict in verdicts), accepted_fingerprint(tmp_path)))
    earlier = "not compared: an earlier day than the last accepted, 2026-11-02"
    assert found[1] == (earlier, earlier, nights[0].fingerprint)
    assert found[2] == ("", "", nights[2].fingerprint)


def test_data_of_another_folder_are_not_compared_and_become_the_accepted_ones(
    layout: DataLayout, tmp_path: Path
) -> None:
    check(GOOD.night(1, layout), tmp_path)
    submit(GOOD.night(1, layout), tmp_path)
    other = dataclasses.replace(SHIFTED.night(2, layout), folder="/other/data")
    verdict = check(other, tmp_path)
    assert not verdict.blocked
    assert verdict.skipped.startswith("not compared: the last accepted night has data in /")
    submit(other, tmp_path)
    assert accepted_fingerprint(tmp_path) == other.fingerprint


@pytest.mark.parametrize("name", ["accepted", "latest"])
def test_a_damaged_record_is_named_with_the_fix(
    name: str, layout: DataLayout, tmp_path: Path
) -> None:
    night = GOOD.night(1, layout)
    check(night, tmp_path)
    submit(night, tmp_path)
    path = tmp_path / "monitoring" / f"{name}.json"
    good = path.read_text()
    for text, problem in (
        (good.replace('"rows"', '"rowz"').replace("train.rows", "trace.rows"), "is damaged"),
        ("{}", r"written by another version of the pipeline \(KeyError\('profile'\)\)"),
        ('{"profile": {"counts": 3}}', "written by another version"),
    ):
        path.write_text(text)
        with pytest.raises(DamagedFileError, match=problem) as error:
            submit(night, tmp_path)
        assert str(path) in str(error.value)
        assert "Fix: remove it" in str(error.value)

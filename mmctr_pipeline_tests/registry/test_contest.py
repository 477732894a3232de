"""Who wins a contest: the AUC gate, the champion on the same rows, days, and other data."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.model_rows import OtherIdsError
from mmctr_pipeline.registry.auc_gate import AucVerdict
from mmctr_pipeline.registry.champion import Champion, ChampionError
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.registry.contest import Outcome, hold_contest, promote_by_hand
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE
from mmctr_pipeline_tests.training.small_sample import small_sample

DATASET = small_sample(n_train=500, n_valid=4000)[0]
LABEL = DATASET.valid.label
PASSED, FAILED = AucVerdict(True, "valid AUC 0.8 is fine"), AucVerdict(False, "AUC 0.7 is too low")
NOISE = np.random.default_rng(3).standard_normal(len(DATASET.valid))


def model(distance: float, **changes: object) -> ModelFile:
    """Return a model file whose valid scores separate the classes by `distance`."""
    assert LABEL is not None
    scores = 1 / (1 + np.exp(-(distance * LABEL + NOISE)))
    return dataclasses.replace(
        MODEL_FILE,
        data_fingerprint=DATASET.fingerprint,
        valid_probabilities=torch.from_numpy(scores.astype(np.float32)),
        **changes,
    )


def contest(storage: Path, challenger: ModelFile, verdict: AucVerdict = PASSED) -> Outcome:
    """Write the challenger, hold the contest and write the champion."""
    version = write_version(storage, challenger).name

    def score(model: ModelFile) -> np.ndarray:
        raise OtherIdsError("the model knows other ids")

    outcome = hold_contest(storage, version, challenger, verdict, DATASET, score, PromotionConfig())
    outcome.champion.write(storage)
    return outcome


def test_the_first_model_has_to_pass_the_auc_gate_alone(tmp_path: Path) -> None:
    with pytest.raises(ChampionError, match=r"no model may be submitted.*AUC 0.7 is too low"):
        contest(tmp_path, model(1.0), FAILED)
    assert Champion.read(tmp_path) is None
    outcome = contest(tmp_path, model(1.0))
    assert outcome.promoted
    assert outcome.champion.version == outcome.champion.best == outcome.version


def test_a_better_model_replaces_the_champion_and_a_worse_one_does_not(tmp_path: Path) -> None:
    first = contest(tmp_path, model(1.0)).version
    better = contest(tmp_path, model(1.2))
    assert better.promoted
    assert better.champion.best == better.version
    assert better.headline.startswith("promoted: AUC ")
    worse = contest(tmp_path, model(0.8))
    assert not worse.promoted
    assert worse.champion.version == better.version
    assert "difference -" in worse.headline
    assert [former["version"] for former in worse.champion.former] == [first]


def test_a_model_below_the_floor_does_not_compete(tmp_path: Path) -> None:
    contest(tmp_path, model(1.0))
    outcome = contest(tmp_path, model(1.5), FAILED)
    assert (outcome.promoted, outcome.headline) == (False, "rejected: AUC 0.7 is too low")


def test_a_slightly_worse_model_may_be_promoted_but_the_best_is_remembered(tmp_path: Path) -> None:
    best = contest(tmp_path, model(1.0)).version
    outcome = contest(tmp_path, model(0.9999))
    assert outcome.promoted
    assert outcome.champion.best == best


def test_a_model_of_an_earlier_day_is_not_promoted(tmp_path: Path) -> None:
    contest(tmp_path, model(1.0, data_day="2026-03-02"))
    outcome = contest(tmp_path, model(1.5, data_day="2026-03-01"))
    assert "its data end on 2026-03-01, before those of the champion (2026-03-02)" in (
        outcome.headline
    )
    assert contest(tmp_path, model(1.5, data_day="2026-03-02")).promoted


def test_a_model_that_a_roll_back_withdrew_is_not_promoted_again(tmp_path: Path) -> None:
    first = contest(tmp_path, model(1.0)).version
    bad = model(1.5)
    assert contest(tmp_path, bad).promoted
    promote_by_hand(tmp_path, first, "a roll-back").champion.write(tmp_path)
    again = contest(tmp_path, bad)
    assert (again.promoted, again.champion.version) == (False, first)
    assert "a roll-back has withdrawn it" in again.headline
    assert contest(tmp_path, model(1.2)).promoted


def test_a_model_trained_on_other_data_than_the_valid_rows_is_not_promoted(tmp_path: Path) -> None:
    contest(tmp_path, model(1.0))
    other = dataclasses.replace(model(1.5), data_fingerprint="another")
    assert "materialise trained_model again" in contest(tmp_path, other).headline


def test_a_champion_that_cannot_score_todays_rows_stays_and_the_fix_is_named(
    tmp_path: Path,
) -> None:
    first = model(1.0)
    contest(tmp_path, first)
    record = Champion.read(tmp_path)
    assert record is not None
    old = dataclasses.replace(first, data_fingerprint="of an earlier night")
    version = write_version(tmp_path, old).name
    promote_by_hand(tmp_path, version, "test").champion.write(tmp_path)
    outcome = contest(tmp_path, model(1.5))
    assert not outcome.promoted
    assert "cannot be compared: the model knows other ids" in outcome.headline
    assert f"mmctr models promote {outcome.version}" in outcome.headline


def test_the_champion_itself_stays_without_a_comparison(tmp_path: Path) -> None:
    version = contest(tmp_path, model(1.0)).version
    again = hold_contest(
        tmp_path, version, model(1.0), PASSED, DATASET, lambda _: NOISE, PromotionConfig()
    )
    assert again.promoted
    assert again.comparison is None
    assert again.champion.former == []

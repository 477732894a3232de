"""Each measure fires for the change that it looks for, and no measure fires by chance."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.monitoring.drift import (
    Finding,
    compare,
    compare_scores,
    jensen_shannon_distance,
    population_stability_index,
)
from mmctr_pipeline.monitoring.profile import DataProfile, Distribution, Figure, profile_scores
from mmctr_pipeline_tests.monitoring.drawn_nights import Population

LIMITS = MonitoringConfig()
LEVELS = {
    f"{split}.{kind}_level" for split in ("train", "valid", "test") for kind in ("likes", "views")
}


@pytest.fixture(scope="module")
def accepted(layout: DataLayout) -> DataProfile:
    return Population().night(0, layout)


def raised(findings: list[Finding], severity: str = "block") -> set[str]:
    return {finding.column for finding in findings if finding.severity == severity}


@pytest.mark.parametrize(
    ("shift", "columns"),
    [
        ({"clicks": 0.25}, {"train.label_rate", "valid.label_rate"}),
        ({"new_users": 0.9}, {"valid.unknown_users", "test.unknown_users"}),
        ({"new_users": 0.0}, {"valid.unknown_users", "test.unknown_users"}),
        (
            {"new_items": 0.5},
            {"train.items", "valid.unknown_items", "test.unknown_items"},
        ),
        (
            {"mean_history": 16.0},
            {"train.history_length", "valid.history_length", "test.history_length"},
        ),
        ({"levels_up": 0.6}, LEVELS),
        ({"share_of_test_rows": 0.4}, {"test.rows", "test.users"}),
        (
            {"n_items": 200},
            {"item_feature.rows", "train.items", "valid.items", "test.items"},
        ),
    ],
    ids=lambda value: ",".join(sorted(value)),
)
def test_a_shift_blocks_by_the_columns_that_it_is_in_and_no_others(
    shift: dict[str, Any], columns: set[str], accepted: DataProfile, layout: DataLayout
) -> None:
    findings = compare(Population(**shift).night(1, layout), accepted, LIMITS)
    assert raised(findings) == columns
    assert raised(findings, "warn") <= columns


@pytest.mark.parametrize("n_users", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_100_nights_of_an_unchanged_population_raise_nothing(
    n_users: int, layout: DataLayout
) -> None:
    population = Population(n_users=n_users)
    accepted = population.night(0, layout)
    n_above = 0
    for seed in range(1, 101):
        findings = compare(population.night(seed, layout), accepted, LIMITS)
        assert raised(findings) == set()
        assert raised(findings, "warn") == set()
        n_above += any(
            finding.value > finding.block for finding in findings if finding.block and finding.value
        )
    # With few users most nights are above a blocking level by chance, so a comparison that ignored
    # chance would block them.
    assert n_above > 50 if n_users == 40 else n_above < 5


@pytest.mark.parametrize("n_bins", [2, 10])
def test_the_psi_of_equal_distributions_is_above_its_chance_level_as_rarely_as_stated(
    n_bins: int,
) -> None:
    generator = np.random.default_rng(3)

    def draw(n: int) -> Distribution:
        return Distribution(np.bincount(generator.integers(0, n_bins, n)).tolist(), 0.0, n)

    pairs = [(draw(400), draw(900)) for _ in range(2_000)]
    for measure in (population_stability_index, jensen_shannon_distance):
        share = np.mean(
            [value > chance for value, chance in (measure(*pair, 0.05) for pair in pairs)]
        )
        assert share == pytest.approx(0.05, abs=0.02)


def test_psi_and_distance_of_two_bins_are_those_of_their_formulas() -> None:
    now, before = Distribution([200, 800], 0.0, 1e9), Distribution([5000, 5000], 0.0, 1e9)
    psi = (0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5)
    assert population_stability_index(now, before)[0] == pytest.approx(psi, rel=1e-6)
    entropies = [-np.sum(np.array(p) * np.log2(p)) for p in ((0.35, 0.65), (0.2, 0.8), (0.5, 0.5))]
    distance = np.sqrt(entropies[0] - (entropies[1] + entropies[2]) / 2)
    assert jensen_shannon_distance(now, before)[0] == pytest.approx(distance)


def test_values_that_no_bin_has_in_common_give_a_distance_of_1() -> None:
    now, before = Distribution([0, 0, 500], 2.0, 500), Distribution([500], 0.0, 500)
    assert jensen_shannon_distance(now, before)[0] == pytest.approx(1)
    value, chance = population_stability_index(now, before)
    assert value > 10 * chance


def test_the_sentence_has_the_figures_first_and_the_limit(accepted: DataProfile) -> None:
    night = dataclasses.replace(
        accepted,
        shares={
            **accepted.shares,
            "train.label_rate": Figure(0.31, 5e4),
            "item_images.coverage": Figure(0.45, 1e6),
        },
        counts={**accepted.counts, "train.rows": Figure(1_000, 5e4)},
    )
    shares = {**accepted.shares, "train.label_rate": Figure(0.48, 5e4)}
    shares["item_images.coverage"] = Figure(0.5, 1e6)
    counts = {**accepted.counts, "train.rows": Figure(4_000, 5e4)}
    accepted = dataclasses.replace(accepted, shares=shares, counts=counts)
    sentences = {finding.column: finding.sentence for finding in compare(night, accepted, LIMITS)}
    assert sentences["train.label_rate"] == (
        "train.label_rate: 0.31 against 0.48 of the last accepted night, "
        "a relative change of 0.354 (limit 0.25)"
    )
    assert sentences["item_images.coverage"] == (
        "item_images.coverage: 0.45 against 0.5 of the last accepted night, "
        "a difference of 0.05 (limit 0.02)"
    )
    assert sentences["train.rows"] == (
        "train.rows: 1,000 against 4,000 of the last accepted night, a drop of 0.75 (limit 0.4)"
    )


def test_labels_that_the_click_rates_no_longer_rank_block(accepted: DataProfile) -> None:
    for value, columns in ((0.64, set()), (0.37, {"valid.rates_auc"})):
        shares = {**accepted.shares, "valid.rates_auc": Figure(0.62, 750)}
        night = {**accepted.shares, "valid.rates_auc": Figure(value, 750)}
        findings = compare(
            dataclasses.replace(accepted, shares=night),
            dataclasses.replace(accepted, shares=shares),
            LIMITS,
        )
        assert raised(findings) == columns
        assert raised(findings, "warn") == set()


def test_covers_that_are_gone_block(accepted: DataProfile) -> None:
    shares = {**accepted.shares, "item_images.coverage": Figure(0.2, 400)}
    findings = compare(dataclasses.replace(accepted, shares=shares), accepted, LIMITS)
    assert raised(findings) == {"item_images.coverage"}


def test_more_rows_raise_nothing(accepted: DataProfile) -> None:
    counts = {name: Figure(3 * each.value, 3 * each.size) for name, each in accepted.counts.items()}
    findings = compare(dataclasses.replace(accepted, counts=counts), accepted, LIMITS)
    assert {finding.severity for finding in findings} == {"ok"}


def _with_type(profile: DataProfile, column: str, column_type: str | None) -> DataProfile:
    train = {**profile.schema["train"], column: column_type}
    train = {name: each for name, each in train.items() if each}
    return dataclasses.replace(profile, schema={**profile.schema, "train": train})


@pytest.mark.parametrize(
    ("column", "before", "now", "severity", "text"),
    [
        ("user_id", "int64", "string", "block", "user_id is string instead of int64"),
        ("price", "double", None, "block", "price (double) is gone"),
        ("price", None, "double", "warn", "price (double) is new"),
        ("user_id", "int64", "uint32", "warn", "user_id is uint32 instead of int64"),
        (
            "user_id",
            "string",
            "dictionary<values=string, indices=int32, ordered=0>",
            "warn",
            "user_id is dictionary<values=string, indices=int32, ordered=0> instead of string",
        ),
        (
            "item_seq",
            "list<element: int64>",
            "large_list<item: int32 not null>",
            "warn",
            "item_seq is large_list<item: int32 not null> instead of list<element: int64>",
        ),
        (
            "item_seq",
            "list<element: int64>",
            "list<element: string>",
            "block",
            "item_seq is list<element: string> instead of list<element: int64>",
        ),
        (
            "vector",
            "fixed_size_list<element: float>[128]",
            "fixed_size_list<element: double>[64]",
            "block",
            "vector is fixed_size_list<element: double>[64] instead of "
            "fixed_size_list<element: float>[128]",
        ),
        ("label", "int8", "int8", "ok", "columns as in the last accepted night"),
    ],
)
def test_only_harmful_changes_of_columns_block(
    column: str,
    before: str | None,
    now: str | None,
    severity: str,
    text: str,
    accepted: DataProfile,
) -> None:
    accepted, night = _with_type(accepted, column, before), _with_type(accepted, column, now)
    found = {f.column: f for f in compare(night, accepted, LIMITS) if f.measure == "schema"}
    assert (found["train"].severity, found["train"].sentence) == (severity, f"train: {text}")
    assert {each.severity for name, each in found.items() if name != "train"} == {"ok"}
    if severity == "block":
        lenient = MonitoringConfig(schema_change="warn")
        assert raised(compare(night, accepted, lenient)) == set()


def test_scores_only_warn_unless_a_blocking_level_is_set() -> None:
    scores = np.random.default_rng(0).beta(2, 20, 5_000)
    accepted = profile_scores(scores, 5_000)
    redrawn = profile_scores(np.random.default_rng(1).beta(2, 20, 5_000), 5_000)
    doubled = profile_scores(scores * 2, 5_000)
    assert {f.severity for f in compare_scores(redrawn, accepted, LIMITS)} == {"ok"}
    assert {f.severity for f in compare_scores(doubled, accepted, LIMITS)} == {"warn"}
    strict = MonitoringConfig(score_psi_block=0.3)
    assert raised(compare_scores(doubled, accepted, strict)) == {"submission.scores"}


def test_scores_of_low_click_rates_are_told_apart() -> None:
    scores = np.random.default_rng(0).beta(2, 2_000, 5_000)
    accepted, doubled = (profile_scores(each, 5_000) for each in (scores, 2 * scores))
    assert raised(compare_scores(doubled, accepted, LIMITS), "warn") == {"submission.scores"}

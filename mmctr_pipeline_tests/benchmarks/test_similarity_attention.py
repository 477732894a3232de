"""The ablation of our model: every file is the preset with something switched off."""

from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline.comparison.entries import leaderboard_entries

FOLDER = Path(__file__).parents[2] / "benchmarks" / "similarity_attention"
FILES = sorted(FOLDER.glob("without_*.yaml"))
TRIED = sorted(FOLDER.glob("with_*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_file_of_the_ablation_differs_from_the_preset_in_settings_that_are_off(
    file: Path,
) -> None:
    ours, without = leaderboard_entries(["similarity_attention", str(file)])
    changed = {
        **_changed(ours.model.to_mapping(), without.model.to_mapping()),
        **_changed(ours.training.to_mapping(), without.training.to_mapping()),
    }
    assert changed
    assert not any(changed.values())


@pytest.mark.parametrize("file", TRIED, ids=[file.stem for file in TRIED])
def test_what_was_tried_differs_from_the_preset(file: Path) -> None:
    ours, tried = leaderboard_entries(["similarity_attention", str(file)])
    assert (tried.model, tried.training) != (ours.model, ours.training)


def test_every_part_that_is_on_has_a_file_that_switches_it_off_alone() -> None:
    ours = leaderboard_entries(["similarity_attention"])[0]
    settings = ours.model.to_mapping()
    parts = {name for name, value in settings.items() if value is True}
    parts |= {f"features.{name}" for name, value in settings["features"].items() if value is True}
    assert {"co_interactions", "features.item_levels"} <= parts
    switched_off_alone = set()
    for file in FILES:
        without = leaderboard_entries([str(file)])[0]
        changed = _changed(settings, without.model.to_mapping())
        if without.training == ours.training and len(changed) == 1:
            switched_off_alone |= changed.keys()
    assert parts <= switched_off_alone


def _changed(ours: dict, other: dict, prefix: str = "") -> dict[str, Any]:
    """Return the settings in which `other` differs, by dotted name, with what it has there."""
    found = {}
    for name, value in ours.items():
        if isinstance(value, dict):
            found |= _changed(value, other[name], f"{prefix}{name}.")
        elif other[name] != value:
            found[prefix + name] = other[name]
    return found


@pytest.mark.parametrize("name", ["din_same_features", "din_same_widths"])
def test_din_is_given_the_features_and_the_training_of_ours(name: str) -> None:
    ours, din = leaderboard_entries(["similarity_attention", str(FOLDER / f"{name}.yaml")])
    assert din.model.name == "din"
    assert din.training == ours.training
    # Ours has titles and ids in its similarities, without having them among its features; DIN has
    # the matrix that the published ones have.
    given: dict[str, Any] = {"text_vectors": True, "item_id": True, "vector_projection": True}
    if name == "din_same_features":
        given["projection_dim"] = 0
    expected = {**ours.model.to_mapping()["features"], **given}
    assert din.model.to_mapping()["features"] == expected


def test_din_is_given_the_widths_of_ours() -> None:
    ours, din = (
        entry.model.to_mapping()
        for entry in leaderboard_entries(
            ["similarity_attention", str(FOLDER / "din_same_widths.yaml")]
        )
    )
    for name in ("attention_hidden_dims", "hidden_dims", "dropout"):
        assert din[name] == ours[name]
    assert din["attention_dropout"] == ours["dropout"]

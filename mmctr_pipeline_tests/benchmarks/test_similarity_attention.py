"""The ablation of our model: a file switches parts off, adds a part, or gives DIN our features."""

from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline.comparison.entries import preset_entries

FOLDER = Path(__file__).parents[2] / "benchmarks" / "similarity_attention"
REMOVALS = sorted(FOLDER.glob("without_*.yaml"))
ADDITIONS = sorted(FOLDER.glob("with_*.yaml"))


@pytest.mark.parametrize("file", REMOVALS, ids=[file.stem for file in REMOVALS])
def test_a_removal_differs_from_the_preset_only_by_settings_switched_off(
    file: Path,
) -> None:
    ours, without = preset_entries(["similarity_attention", str(file)])
    changed = {
        **_changed(ours.preset.model.to_mapping(), without.preset.model.to_mapping()),
        **_changed(ours.preset.training.to_mapping(), without.preset.training.to_mapping()),
    }
    assert changed
    assert not any(changed.values())


@pytest.mark.parametrize("file", ADDITIONS, ids=[file.stem for file in ADDITIONS])
def test_an_addition_differs_from_the_preset(file: Path) -> None:
    ours, added = (entry.preset for entry in preset_entries(["similarity_attention", str(file)]))
    assert (added.model, added.training) != (ours.model, ours.training)


def test_each_part_of_the_preset_has_a_file_that_switches_off_only_that_part() -> None:
    ours = preset_entries(["similarity_attention"])[0]
    settings = ours.preset.model.to_mapping()
    parts = {name for name, value in settings.items() if value is True}
    parts |= {f"features.{name}" for name, value in settings["features"].items() if value is True}
    assert {"co_interactions", "features.item_levels"} <= parts
    switched_off = set()
    for file in REMOVALS:
        without = preset_entries([str(file)])[0]
        changed = _changed(settings, without.preset.model.to_mapping())
        if without.preset.training == ours.preset.training and len(changed) == 1:
            switched_off |= changed.keys()
    assert parts <= switched_off


def _changed(ours: dict, other: dict, prefix: str = "") -> dict[str, Any]:
    """Return the settings of `other` that differ from `ours`, by dotted name."""
    found = {}
    for name, value in ours.items():
        if isinstance(value, dict):
            found |= _changed(value, other[name], f"{prefix}{name}.")
        elif other[name] != value:
            found[prefix + name] = other[name]
    return found


@pytest.mark.parametrize("name", ["din_same_features", "din_same_widths"])
def test_din_has_our_features_and_our_training(name: str) -> None:
    ours, din = preset_entries(["similarity_attention", str(FOLDER / f"{name}.yaml")])
    assert din.preset.model.name == "din"
    assert din.preset.training == ours.preset.training
    # Our model reads titles and ids through similarities, DIN as features. DIN also has the
    # published learned matrix behind its vectors.
    added: dict[str, Any] = {"text_vectors": True, "item_id": True, "vector_projection": True}
    if name == "din_same_features":
        added["projection_dim"] = 0
    expected = {**ours.preset.model.to_mapping()["features"], **added}
    assert din.preset.model.to_mapping()["features"] == expected


@pytest.mark.parametrize("name", ["din_same_widths", "din_same_time"])
def test_din_has_our_widths(name: str) -> None:
    ours, din = (
        entry.preset.model.to_mapping()
        for entry in preset_entries(["similarity_attention", str(FOLDER / f"{name}.yaml")])
    )
    for name in ("attention_hidden_dims", "hidden_dims", "dropout"):
        assert din[name] == ours[name]
    assert din["attention_dropout"] == ours["dropout"]

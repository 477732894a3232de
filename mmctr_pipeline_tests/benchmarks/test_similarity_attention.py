"""The ablation of our model: every file is the preset with something switched off."""

from pathlib import Path

import pytest

from mmctr_pipeline.presets.entries import leaderboard_entries

FOLDER = Path(__file__).parents[2] / "benchmarks" / "similarity_attention"
FILES = sorted(FOLDER.glob("without_*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_file_of_the_ablation_differs_from_the_preset_in_settings_that_are_off(
    file: Path,
) -> None:
    ours, without = leaderboard_entries(["similarity_attention", str(file)])
    differing = [
        value
        for section in ("model", "training")
        for value in _differing(
            getattr(ours, section).to_mapping(), getattr(without, section).to_mapping()
        )
    ]
    assert differing
    assert not any(differing)


def test_every_part_that_is_on_has_a_file() -> None:
    ours = leaderboard_entries(["similarity_attention"])[0].model.to_mapping()
    parts = {name for name, value in ours.items() if value is True}
    parts |= {f"features.{name}" for name, value in ours["features"].items() if value is True}
    switched_off = set()
    for file in FILES:
        model = leaderboard_entries([str(file)])[0].model.to_mapping()
        switched_off |= {name for name, value in ours.items() if model[name] != value}
        features = ours["features"].items()
        switched_off |= {f"features.{n}" for n, value in features if model["features"][n] != value}
    assert parts <= switched_off


def _differing(ours: dict, without: dict) -> list:
    """Return what `without` has where it differs, nested settings one by one."""
    found: list = []
    for name, value in ours.items():
        if isinstance(value, dict):
            found += _differing(value, without[name])
        elif without[name] != value:
            found.append(without[name])
    return found


def test_din_is_given_the_features_and_the_training_of_ours() -> None:
    ours, din = leaderboard_entries(
        ["similarity_attention", str(FOLDER / "din_same_features.yaml")]
    )
    assert din.model.name == "din"
    assert din.training == ours.training
    assert set(ours.model.modalities) - {"image"} <= set(din.model.modalities)

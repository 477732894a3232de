"""The leaderboard's rows from presets."""

from pathlib import Path

import pytest

from mmctr_pipeline.comparison.entries import leaderboard_entries
from mmctr_pipeline.presets.preset import load_preset, shipped_presets
from mmctr_pipeline.settings import SettingsError


def test_without_names_every_shipped_model_and_training_stands_there_once() -> None:
    entries = leaderboard_entries([])
    names = [entry.name for entry in entries]
    assert {"din", "improved_mmctr", "sample"} <= set(names)
    # These differ from improved_mmctr in encoders and checks alone.
    assert not {"improved_mmctr_given", "text_only"} & set(names)
    compared = [(entry.model, entry.training) for entry in entries]
    for name in shipped_presets():
        preset = load_preset(name)
        assert compared.count((preset.model, preset.training)) == 1


def test_names_and_paths_are_taken_in_their_order_and_files_are_known_by_their_stem(
    tmp_path: Path,
) -> None:
    without = tmp_path / "without_tags.yaml"
    without.write_text("extends: din\nmodel: {features: {item_tags: false}}\n")
    entries = leaderboard_entries([str(without), "din", "text_only", "improved_mmctr"])
    names = ["without_tags", "din", "text_only", "improved_mmctr"]
    assert [entry.name for entry in entries] == names
    assert entries[0].model != entries[1].model
    assert entries[0].training == entries[1].training


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "din.yaml").write_text("extends: din\n")
    with pytest.raises(SettingsError, match="'din'"):
        leaderboard_entries(["din", str(tmp_path / "din.yaml")])

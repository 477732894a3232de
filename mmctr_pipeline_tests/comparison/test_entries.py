"""Rows of a comparison come from presets, or from the lists of the ablation and the fusions."""

import dataclasses
from pathlib import Path

import pytest

from mmctr_pipeline.comparison.entries import (
    ABLATION_PAIRS,
    Entry,
    ablation_entries,
    fusion_entries,
    preset_entries,
)
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.presets.preset import Preset, load_preset, shipped_presets
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.config import TrainingConfig


def test_the_default_rows_have_each_shipped_model_and_training_once() -> None:
    entries = preset_entries([], shared=load_preset("sample"))
    names = [entry.name for entry in entries]
    assert {"din", "improved_mmctr", "sample"} <= set(names)
    # These two presets differ from improved_mmctr only in encoders and checks, so they have no row.
    assert not {"improved_mmctr_given", "text_only"} & set(names)
    compared = [(entry.preset.model, entry.preset.training) for entry in entries]
    for name in shipped_presets():
        preset = load_preset(name)
        assert compared.count((preset.model, preset.training)) == 1


def test_rows_use_the_shared_encoders_and_fusion_if_given_else_their_own() -> None:
    shared = load_preset("improved_mmctr_given")
    names = ["improved_mmctr", "transformer_dcn"]
    for entry, name in zip(preset_entries(names, shared), names, strict=True):
        preset = load_preset(name)
        assert (entry.preset.encoders, entry.preset.fusion) == (shared.encoders, shared.fusion)
        assert (entry.preset.model, entry.preset.training) == (preset.model, preset.training)
    assert [entry.preset for entry in preset_entries(names)] == [load_preset(n) for n in names]
    # With its own encoders, each of these two presets has a row.
    assert {"improved_mmctr_given", "text_only"} <= {entry.name for entry in preset_entries([])}


def test_rows_keep_the_given_order_and_files_are_named_by_their_stem(tmp_path: Path) -> None:
    without = tmp_path / "without_tags.yaml"
    without.write_text("extends: din\nmodel: {features: {item_tags: false}}\n")
    entries = preset_entries([str(without), "din", "text_only", "improved_mmctr"])
    names = ["without_tags", "din", "text_only", "improved_mmctr"]
    assert [entry.name for entry in entries] == names
    assert entries[0].preset.model != entries[1].preset.model
    assert entries[0].preset.training == entries[1].preset.training


def test_two_rows_of_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "din.yaml").write_text("extends: din\n")
    with pytest.raises(SettingsError, match="'din'"):
        preset_entries(["din", str(tmp_path / "din.yaml")])


def test_a_run_has_its_own_seed_the_shorter_time_limit_and_no_final_fit() -> None:
    training = TrainingConfig(seed=5, final_fit=True, max_minutes=3.0)
    entry = Entry("row", Preset(training=training))
    run = entry.with_seed(2, minutes=20.0)
    assert run.preset.training == dataclasses.replace(training, seed=7, final_fit=False)
    assert run.preset.fusion == entry.preset.fusion
    assert entry.with_seed(0, minutes=2.0).preset.training.max_minutes == 2
    assert entry.with_seed(0, minutes=0.0).preset.training.max_minutes == 3


def test_the_ablation_withholds_covers_titles_both_or_nothing() -> None:
    preset = load_preset("transformer_dcn")
    entries = ablation_entries(preset)
    assert {entry.name: entry.without for entry in entries} == {
        "both": (),
        "text only": ("image",),
        "images only": ("text",),
        "neither": ("text", "image"),
    }
    pca = dataclasses.replace(preset, fusion=dataclasses.replace(preset.fusion, method="pca"))
    assert all(entry.preset == pca for entry in entries)
    each = dataclasses.replace(pca, fusion=dataclasses.replace(pca.fusion, method="pca_each"))
    assert all(entry.preset == each for entry in ablation_entries(each))
    assert {name for pair in ABLATION_PAIRS for name in pair} <= {e.name for e in entries}


def test_attention_and_random_projections_use_the_training_seed() -> None:
    entries = {entry.name: entry for entry in fusion_entries(load_preset("sample"))}
    # The first row is compared with each of the others.
    assert next(iter(entries)) == "pca_each rotated"
    named = fusion_entries(load_preset("sample"), ["pca", "attention"])
    assert named == [entries["pca"], entries["attention"]]
    for number in (0, 1):
        runs = {name: entry.with_seed(number, minutes=0.0) for name, entry in entries.items()}
        assert {run.preset.training.seed for run in runs.values()} == {number + 1}
        attention = runs["attention"].preset.fusion
        assert (attention.method, attention.attention.seed) == ("attention", number + 1)
        projections = {name: run.projection for name, run in runs.items() if run.projection}
        assert projections == {"random": "raw", "random standardised": "standardised"}
        assert len({run.vector_settings for run in runs.values()}) == len(runs)
    random = entries["random"]
    assert random.with_seed(0, 0.0).vector_settings != random.with_seed(1, 0.0).vector_settings


def test_fusion_rows_have_the_settings_in_their_names_whatever_the_preset_says() -> None:
    preset = load_preset("sample")
    ours = FusionConfig(method="pca_each", input="unit", rotate=True)
    for fusion in (preset.fusion, ours):
        entries = fusion_entries(dataclasses.replace(preset, fusion=fusion))
        settings = {
            entry.name: (f.method, f.input, f.rotate)
            for entry in entries
            if (f := entry.preset.fusion) and not entry.projection
        }
        assert settings == {
            "pca_each rotated": ("pca_each", "raw", True),
            "pca_each": ("pca_each", "raw", False),
            "pca standardised rotated": ("pca", "standardised", True),
            "pca standardised": ("pca", "standardised", False),
            "pca": ("pca", "raw", False),
            "attention": ("attention", "raw", False),
        }

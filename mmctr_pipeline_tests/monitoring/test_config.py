"""The levels of the data checks come from the preset, and `null` turns a level off."""

import dataclasses
from pathlib import Path

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.monitoring.config import DATA_LEVELS, SCORE_LEVELS, MonitoringConfig
from mmctr_pipeline.monitoring.drift import compare
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline_tests.monitoring.drawn_nights import Population


def test_null_turns_levels_off(layout: DataLayout) -> None:
    names = [name for name in (*DATA_LEVELS, *SCORE_LEVELS) if name != "schema_change"]
    off = MonitoringConfig(**dict.fromkeys(names))
    shifted = Population(clicks=0.1, n_items=100)
    nights = shifted.night(1, layout), Population().night(0, layout)
    assert {finding.severity for finding in compare(*nights, off)} == {"ok"}
    only_warn = MonitoringConfig(**{name: None for name in names if name.endswith("_block")})
    assert {finding.severity for finding in compare(*nights, only_warn)} == {"ok", "warn"}


def test_a_preset_sets_the_levels(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: text_only\nmonitoring: {label_rate_block: null, psi_block: 0.5}\n")
    expected = dataclasses.replace(MonitoringConfig(), label_rate_block=None, psi_block=0.5)
    assert load_preset(str(path)).monitoring == expected

"""The leaderboard's rows from presets: their models and training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mmctr_pipeline.comparison.runner import Entry
from mmctr_pipeline.presets.preset import load_preset, shipped_presets
from mmctr_pipeline.settings import SettingsError


def leaderboard_entries(names_or_paths: Sequence[str]) -> list[Entry]:
    """Return the presets of these names or paths, in this order; a file is known by its stem.

    Without any these are the shipped ones, one of each kind: those that differ in encoders or
    checks alone would give equal rows. Raises `SettingsError` where two have the same name.
    """
    shipped = shipped_presets()
    entries: list[Entry] = []
    for each in names_or_paths or shipped:
        preset = load_preset(each)
        entry = Entry(each if each in shipped else Path(each).stem, preset.model, preset.training)
        if entry.name in [other.name for other in entries]:
            raise SettingsError(f"two rows would be named {entry.name!r}; rename one of the files")
        is_new = entry not in [dataclasses.replace(other, name=entry.name) for other in entries]
        if names_or_paths or is_new:
            entries.append(entry)
    return entries

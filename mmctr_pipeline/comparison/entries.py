"""Rows of a comparison: presets, and the shipped lists of `mmctr ablation` and `mmctr fusions`."""

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.presets.preset import Preset, load_preset, shipped_presets
from mmctr_pipeline.settings import SettingsError

Modality = Literal["text", "image"]
Projection = Literal["raw", "standardised"]

ABLATION: dict[str, tuple[Modality, ...]] = {
    "both": (),
    "text only": ("image",),
    "images only": ("text",),
    "neither": ("text", "image"),
}
"""Rows of `mmctr ablation`, each with the modalities that it withholds."""

ABLATION_PAIRS = (("text only", "neither"), ("images only", "neither"))
"""Pairs of rows to compare, in addition to the first row with each of the others."""

FUSIONS: dict[str, tuple[dict[str, Any], Projection | None]] = {
    "pca_each rotated": ({"method": "pca_each", "rotate": True}, None),
    "pca_each": ({"method": "pca_each"}, None),
    "pca standardised rotated": ({"input": "standardised", "rotate": True}, None),
    "pca standardised": ({"input": "standardised"}, None),
    "pca": ({}, None),
    "attention": ({"method": "attention"}, None),
    # The vectors are standardised as for attention, so attention finds this row harder to beat.
    "random standardised": ({}, "standardised"),
    "random": ({}, "raw"),
}
"""Rows of `mmctr fusions`: changes to the fusion of recipe A, which is a PCA, and in some rows the
random projection that replaces the fusion."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of a comparison: a preset, or a variant of one.

    Parameters
    ----------
    name
        Shown in the table.
    preset
        Settings; `checks` is not used, and `data` only of the first row.
    without
        Modalities whose vectors are withheld from the fusion and the model. If both are withheld,
        the fused vector of every item is zero.
    projection
        If given, a random projection replaces the fusion. It projects the vectors as they are
        (`raw`) or standardises them first (`standardised`). Its seed is the seed of training.
    seed_fusion
        Whether a learned fusion is fitted with the seed of training.
    """

    name: str
    preset: Preset
    without: tuple[Modality, ...] = ()
    projection: Projection | None = None
    seed_fusion: bool = False

    def with_seed(self, number: int, minutes: float) -> Self:
        """Return this row with its `number`-th seed, counted from 0, and a time limit.

        The limit is `minutes` of training and validation, or the preset's own limit if that is
        shorter. In both, 0 means no limit.
        """
        training, fusion = self.preset.training, self.preset.fusion
        limits = [limit for limit in (training.max_minutes, minutes) if limit > 0]
        training = dataclasses.replace(
            training,
            seed=training.seed + number,
            max_minutes=min(limits, default=0.0),
            # A final fit would also train on the users that select the epoch.
            final_fit=False,
        )
        if self.seed_fusion:
            attention = dataclasses.replace(fusion.attention, seed=training.seed)
            fusion = dataclasses.replace(fusion, attention=attention)
        preset = dataclasses.replace(self.preset, training=training, fusion=fusion)
        return dataclasses.replace(self, preset=preset)

    @property
    def vector_settings(self) -> Hashable:
        """Everything that the vectors of this row depend on, for one data folder."""
        seed = self.preset.training.seed if self.projection else None
        return (self.preset.encoders, self.preset.fusion, self.without, self.projection, seed)


def preset_entries(names_or_paths: Sequence[str], shared: Preset | None = None) -> list[Entry]:
    """Return a row for each preset, given by name or path, in this order.

    The row of a path is named by the stem of the file. Data, encoders and fusion are those of
    `shared`, or each preset's own if `shared` is None. Without names, returns the shipped presets,
    except those whose settings equal those of an earlier row. Raises `SettingsError` if two rows
    would have the same name.
    """
    shipped = shipped_presets()
    entries: dict[str, Entry] = {}
    for name_or_path in names_or_paths or shipped:
        name = name_or_path if name_or_path in shipped else Path(name_or_path).stem
        if name in entries:
            raise SettingsError(f"two rows would be named {name!r}; rename a file or leave one out")
        preset = load_preset(name_or_path)
        if shared is not None:
            fixed = {name: getattr(shared, name) for name in ("data", "encoders", "fusion")}
            preset = dataclasses.replace(preset, **fixed)
        others = [dataclasses.replace(e.preset, checks=preset.checks) for e in entries.values()]
        if names_or_paths or preset not in others:
            entries[name] = Entry(name, preset)
    return list(entries.values())


def ablation_entries(preset: Preset) -> list[Entry]:
    """Return the rows of `ABLATION`, fused by PCA if the preset's fusion is learned."""
    if preset.fusion.method == "attention":
        preset = _with_fusion(preset, method="pca")
    return [Entry(name, preset, without=without) for name, without in ABLATION.items()]


def fusion_entries(preset: Preset, names: Sequence[str] = ()) -> list[Entry]:
    """Return the named rows of `FUSIONS`, or all rows if no names are given.

    A learned or random fusion uses the seed of training, which is 1 in the first run of a row.
    """
    preset = dataclasses.replace(preset, training=dataclasses.replace(preset.training, seed=1))
    own = preset.fusion
    shipped = FusionConfig(dim=own.dim, refit=own.refit, attention=own.attention)
    preset = dataclasses.replace(preset, fusion=shipped)
    return [
        Entry(name, _with_fusion(preset, **changes), projection=projection, seed_fusion=True)
        for name, (changes, projection) in FUSIONS.items()
        if name in names or not names
    ]


def _with_fusion(preset: Preset, **changes: Any) -> Preset:
    return dataclasses.replace(preset, fusion=dataclasses.replace(preset.fusion, **changes))

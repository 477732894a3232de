"""Every setting of every class refuses hostile values, in presets and in Dagster alike."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from mmctr_pipeline.defs.config import config_class
from mmctr_pipeline.models.config import MODEL_CONFIGS
from mmctr_pipeline.presets.preset import Preset
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.settings import MAX_SEED, Settings, SettingsError

HOSTILE: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "half": 0.5,
    "integral float": 2.0,
    "largest seed": MAX_SEED,
    "2**63": 2**63,
    "2**70": 2**70,
    "10**400": 10**400,
    "1e12": 1e12,
    "1e-300": 1e-300,
    "not a number": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "text": "text",
    "empty text": "",
    "number as text": "2e-3",
    "null character": "a\0b",
    "long text": "x" * 5000,
    "bytes": b"x",
    "list": ["din"],
    "empty list": [],
    "list of lists": [[1]],
    "list with a boolean": [8, True],
    "list with a float": [8, 4.0],
    "long list": [1] * 1000,
    "mapping": {"name": "din"},
}


def classes_in(settings_class: type[Settings]) -> Iterator[type[Settings]]:
    """Yield a class of settings and those of its fields, including all models."""
    yield settings_class
    for hint in typing.get_type_hints(settings_class).values():
        for option in typing.get_args(hint) or (hint,):
            if isinstance(option, type) and issubclass(option, Settings):
                yield from classes_in(option)


CLASSES = {cls.__name__: cls for cls in [*classes_in(Preset), SampleConfig]}


def test_all_models_are_covered() -> None:
    assert {cls.__name__ for cls in MODEL_CONFIGS.values()} < set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_number_has_a_lower_and_an_upper_bound(name: str) -> None:
    hints = typing.get_type_hints(CLASSES[name])
    for field in dataclasses.fields(CLASSES[name]):
        if {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}:
            bounds = set(field.metadata["bounds"])
            assert bounds & {"ge", "gt"}, field.name
            assert bounds & {"le", "lt"}, field.name


def refusal(build: Callable[..., Any], *args: Any, **values: Any) -> str | None:
    """Return the message with which values are refused, or None if they are accepted."""
    try:
        build(*args, **values)
    except (SettingsError, ValidationError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Preset"])
def test_presets_and_dagster_refuse_the_same_hostile_values_and_name_the_setting(name: str) -> None:
    settings_class = CLASSES[name]
    derived = config_class(settings_class(), "section")
    n_refused = 0
    for field in dataclasses.fields(settings_class):
        for label, value in HOSTILE.items():
            values = {field.name: value}
            preset = refusal(settings_class.from_mapping, values, "my.yaml", "section")
            dagster = refusal(derived, **values)
            case = f"{field.name} = {label}: {preset} / {dagster}"
            assert (preset is None) == (dagster is None), case
            if preset is None or dagster is None:
                continue
            n_refused += 1
            if field.name == "corrupt_image_share" and value == 1:
                continue  # the message names missing_image_share: the sum of both is too large
            assert preset.startswith(f"my.yaml: section.{field.name}"), case
            assert len(preset) < 1000, case
            assert f"run configuration: section.{field.name}" in dagster, case
    assert n_refused > 10 * len(dataclasses.fields(settings_class))


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Preset"])
def test_accepted_numbers_are_finite_and_within_their_bounds(name: str) -> None:
    settings_class = CLASSES[name]
    for field in dataclasses.fields(settings_class):
        for value in HOSTILE.values():
            try:
                accepted = getattr(settings_class.from_mapping({field.name: value}), field.name)
            except SettingsError:
                continue
            bounds = field.metadata.get("bounds", {})
            for number in accepted if isinstance(accepted, tuple) else [accepted]:
                if number is None:  # for example, no floor
                    continue
                if not bounds:
                    assert not isinstance(number, int | float) or isinstance(number, bool)
                    continue
                assert math.isfinite(number)
                assert bounds.get("ge", -math.inf) <= number <= bounds.get("le", math.inf)
                assert bounds.get("gt", -math.inf) < number or "gt" not in bounds
                assert number < bounds.get("lt", math.inf) or "lt" not in bounds

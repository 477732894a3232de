"""Settings are checked by type, bounds and choices, and read from plain values."""

import dataclasses
from typing import Any, Literal

import pytest

from mmctr_pipeline.settings import Settings, SettingsError, setting


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    rate: float = setting(0.5, "a share", ge=0, lt=1)
    name: Literal["inner"] = "inner"


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    count: int = setting(3, "how many", ge=1, le=10)
    widths: tuple[int, ...] = setting((4, 2), "layers", gt=0)
    mode: Literal["fast", "slow"] = setting("fast", "how")
    flag: bool = setting(False, "whether")
    limit: int | None = setting(None, "at most", gt=0)
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_defaults_are_used() -> None:
    assert Outer() == Outer(3, (4, 2), "fast", False, None, Inner(0.5))


def test_values_are_converted_to_their_type() -> None:
    settings = Outer.from_mapping({"widths": [8, 4], "inner": {"rate": 0}, "limit": 5})
    assert settings.widths == (8, 4)
    assert settings.limit == 5
    assert isinstance(settings.inner.rate, float)


def test_round_trip_through_plain_values() -> None:
    settings = Outer(count=7, widths=(1,), inner=Inner(0.25))
    plain = settings.to_mapping()
    assert plain == {
        "count": 7,
        "widths": [1],
        "mode": "fast",
        "flag": False,
        "limit": None,
        "inner": {"rate": 0.25, "name": "inner"},
    }
    assert Outer.from_mapping(plain) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "Outer.count is 0; it must be >= 1"),
        ({"count": 11}, "Outer.count is 11; it must be >= 1 and <= 10"),
        ({"count": 1.5}, "Outer.count is 1.5; expected int"),
        ({"count": True}, "Outer.count is True; expected int"),
        ({"count": None}, "Outer.count is None; expected int"),
        ({"flag": 1}, "Outer.flag is 1; expected bool"),
        ({"widths": [4, 0]}, "Outer.widths is 0; it must be > 0"),
        ({"widths": [4, "2"]}, "Outer.widths is '2'; expected int"),
        ({"widths": 4}, "Outer.widths is 4; expected a list of int"),
        ({"mode": "medium"}, "Outer.mode is 'medium'; it must be one of fast, slow"),
        ({"limit": -1}, "Outer.limit is -1; it must be > 0"),
        ({"limit": "x"}, "Outer.limit is 'x'"),
        ({"inner": {"rate": 1}}, "inner.rate is 1.0; it must be >= 0 and < 1"),
        ({"inner": {"rate": float("nan")}}, "inner.rate is nan; it must be a finite number"),
        ({"inner": {"rate": float("inf")}}, "inner.rate is inf; it must be a finite number"),
        ({"inner": {"rate": 10**400}}, "is an integer of 1,329 bits; it must be a finite number"),
        ({"count": 10**400}, "Outer.count is an integer of 1,329 bits; it must be >= 1"),
        ({"count": "x" * 500}, f"Outer.count is '{'x' * 76}...; expected int"),
        ({"widths": [1] * 65}, "Outer.widths has 65 values; it must have at most 64"),
        ({"widths": [4, True]}, "Outer.widths is True; expected int"),
        ({"mode": ["fast"]}, "Outer.mode is ['fast']; it must be one of fast, slow"),
        ({"inner": {"rate": "fast"}}, "inner.rate is 'fast'; expected float"),
        ({"inner": {"name": "other"}}, "inner.name is 'other'; it must be one of"),
        ({"inner": 3}, "inner is 3; expected a mapping of rate, name"),
    ],
)
def test_invalid_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Outer.from_mapping(values, "file.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("file.yaml")


def test_bounds_apply_to_direct_construction() -> None:
    with pytest.raises(SettingsError, match=r"Outer\.count is 0"):
        Outer(count=0)
    with pytest.raises(SettingsError, match=r"Outer\.count is 0"):
        dataclasses.replace(Outer(), count=0)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError) as error:
        Outer.from_mapping({"inner": {"rat": 0.1}}, "file.yaml")
    expected = "file.yaml: inner: unknown setting rat (did you mean rate?); known: rate, name"
    assert str(error.value) == expected
    with pytest.raises(SettingsError, match=r"Outer is \[1\]; expected a mapping of count, widths"):
        Outer.from_mapping([1], "file.yaml")  # type: ignore[arg-type]


def test_all_faults_are_listed_at_once() -> None:
    values = {"count": 0, "mod": "fast", "widths": [4, 0], "inner": {"rate": 2, "nmae": "inner"}}
    with pytest.raises(SettingsError) as error:
        Outer.from_mapping(values, "file.yaml", "outer")
    assert str(error.value).splitlines() == [
        "file.yaml: 5 faults:",
        "  outer: unknown setting mod (did you mean mode?); known: "
        "count, widths, mode, flag, limit, inner",
        "  outer.count is 0; it must be >= 1 and <= 10",
        "  outer.widths is 0; it must be > 0",
        "  outer.inner: unknown setting nmae (did you mean name?); known: rate, name",
        "  outer.inner.rate is 2.0; it must be >= 0 and < 1",
    ]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outer().count = 4  # type: ignore[misc]


def test_field_metadata_has_help_and_bounds() -> None:
    metadata = {field.name: field.metadata for field in dataclasses.fields(Outer)}
    assert metadata["count"]["help"] == "how many"
    assert metadata["count"]["bounds"] == {"ge": 1, "le": 10}

"""Settings: frozen dataclasses whose fields carry bounds and a description.

Every hyper-parameter of the project lives once, in a subclass of `Settings`, in a module that
imports the standard library alone. Presets (YAML) and the Dagster launchpad are derived from them.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

Precision = Literal["auto", "float32", "bfloat16"]
"""Number formats of forward passes and training; see `mmctr_pipeline.precision`."""


class SettingsError(ValueError):
    """A setting is unknown, of the wrong type, or out of its bounds; the message says which."""


def setting(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """Declare one field of a `Settings` class.

    `help` says what the value does and its unit. Bounds hold for numbers, and for each number of
    a tuple. A closed set of strings is the field's type, a `Literal`.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {
        "help": help,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
    }
    return dataclasses.field(default=default, metadata=metadata)


_BROKEN_BOUND: dict[str, typing.Callable[[float, float], bool]] = {
    "ge": lambda value, bound: value < bound,
    "gt": lambda value, bound: value <= bound,
    "le": lambda value, bound: value > bound,
    "lt": lambda value, bound: value >= bound,
}
_BOUND_SIGN = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings; checks types and bounds when a value is made."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            where = f"{type(self).__name__}.{field.name}"
            value = _coerced(getattr(self, field.name), hints[field.name], where)
            object.__setattr__(self, field.name, value)
            for number in value if isinstance(value, tuple) else (value,):
                for name, bound in field.metadata.get("bounds", {}).items():
                    if number is not None and not _holds(number, name, bound):
                        raise SettingsError(
                            f"{where} is {number!r}; it must be {_BOUND_SIGN[name]} {bound}"
                        )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build from a plain mapping (a YAML section); unknown names are refused with the known.

        `where` names the origin (file and section) in error messages.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        prefix = f"{where}: " if where else ""
        if not isinstance(values, Mapping):
            raise SettingsError(f"{prefix}expected a mapping of {', '.join(known)}, got {values!r}")
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise SettingsError(
                f"{prefix}unknown setting {', '.join(unknown)}; known: {', '.join(known)}"
            )
        hints = typing.get_type_hints(cls)
        arguments = {}
        for name, value in values.items():
            hint = hints[name]
            if isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, Mapping):
                value = hint.from_mapping(value, f"{where}.{name}" if where else name)
            arguments[name] = value
        try:
            return cls(**arguments)
        except SettingsError as error:
            raise SettingsError(f"{prefix}{error}") from None

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, as YAML, JSON and Dagster take them."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _holds(number: float, name: str, bound: float) -> bool:
    # A NaN compares false with everything and would pass a test for a broken bound.
    return number == number and not _BROKEN_BOUND[name](number, bound)


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_mapping()
    return list(value) if isinstance(value, tuple) else value


def _coerced(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as `hint` asks (int to float, list to tuple), or raise `SettingsError`."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                try:
                    return _coerced(value, option, where)
                except SettingsError:
                    continue
        raise SettingsError(f"{where} is {value!r}; expected {hint}")
    if origin is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(hint)[0]
        return tuple(_coerced(element, inner, where) for element in value)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value in allowed:
            return value
        raise SettingsError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 2e-3, which lacks a dot, as a string.
        try:
            return float(value)
        except ValueError:
            raise SettingsError(f"{where} is {value!r}; expected float") from None
    expected = origin or hint
    is_bool_for_number = isinstance(value, bool) and hint is not bool
    if not isinstance(value, expected) or is_bool_for_number:
        name = getattr(hint, "__name__", str(hint))
        raise SettingsError(f"{where} is {value!r}; expected {name}")
    return value

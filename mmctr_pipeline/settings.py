"""Settings: frozen dataclasses whose fields carry bounds and a description.

Every hyper-parameter of the project is defined once, in a subclass of `Settings`, in a module that
imports only the standard library. Presets (YAML) and the Dagster launchpad derive from these.
"""

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self, TypedDict, Unpack

Precision = Literal["auto", "float32", "bfloat16"]
"""Number format of matrix products, see `mmctr_pipeline.precision`."""


class SettingsError(ValueError):
    """A setting is unknown, has the wrong type, or is out of bounds; the message names it."""


class Bounds(TypedDict, total=False):
    """Bounds of a number: greater or equal, greater, less or equal, less."""

    ge: float
    gt: float
    le: float
    lt: float


def setting(default: Any, help: str, **bounds: Unpack[Bounds]) -> Any:
    """Declare one field of a `Settings` class.

    Bounds apply to numbers, and to each number of a tuple. A closed set of strings is not a bound
    but the type of the field, a `Literal`.

    Parameters
    ----------
    default
        Default value.
    help
        What the value does, and its unit.
    bounds
        Any of `Bounds`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": (">=", operator.ge),
    "gt": (">", operator.gt),
    "le": ("<=", operator.le),
    "lt": ("<", operator.lt),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of all settings. Checks types and bounds when a value is created."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            where = f"{type(self).__name__}.{field.name}"
            value = _converted(getattr(self, field.name), hints[field.name], where)
            object.__setattr__(self, field.name, value)
            for number in value if isinstance(value, tuple) else (value,):
                for name, bound in field.metadata.get("bounds", {}).items():
                    sign, holds = _BOUNDS[name]
                    if number is not None and not holds(number, bound):
                        raise SettingsError(f"{where} is {number!r}; it must be {sign} {bound}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Build from a plain mapping, such as a YAML section.

        Raises `SettingsError` for unknown names, and lists the known ones. `where` (file and
        section) precedes the message.
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
        """Return plain dicts, lists and scalars, for YAML, JSON and Dagster."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_mapping()
    return list(value) if isinstance(value, tuple) else value


def _converted(value: Any, hint: Any, where: str) -> Any:
    """Convert `value` to the type `hint`, int to float or list to tuple; raise `SettingsError`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _converted(value, option, where)
            except SettingsError:
                continue
        raise SettingsError(f"{where} is {value!r}; expected {hint}")
    if origin is Literal:
        if value in arguments:
            return value
        raise SettingsError(f"{where} is {value!r}; it must be one of {', '.join(arguments)}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(element, arguments[0], where) for element in value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        # A string too: YAML 1.1 reads 2e-3, which lacks a dot, as one.
        try:
            return float(value)
        except ValueError:
            raise SettingsError(f"{where} is {value!r}; expected float") from None
    is_bool_for_number = isinstance(value, bool) and hint is not bool
    if not isinstance(value, origin or hint) or is_bool_for_number:
        raise SettingsError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value

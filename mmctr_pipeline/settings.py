"""Settings: frozen dataclasses whose fields carry bounds and a description.

Every hyper-parameter of the project is defined once, in a subclass of `Settings`, in a module that
imports only the standard library and other such modules. Presets (YAML) and the Dagster launchpad
derive from these classes.
"""

import contextlib
import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypedDict, Unpack

Precision = Literal["auto", "float32", "bfloat16"]
"""Number format of matrix products, see `mmctr_pipeline.precision`."""

MAX_SEED = 2**63 - 1
"""Largest seed that torch, numpy and Dagster all accept."""

_MAX_VALUES = 64
_MAX_CHARACTERS = 4096
_SHOWN_CHARACTERS = 80
_SHOWN_NAMES = 5


class SettingsError(ValueError):
    """Settings are unknown, have the wrong type, or are out of bounds; the message names each.

    Parameters
    ----------
    where
        The file, or the whole message if there are no `faults`.
    faults
        A sentence for each fault.
    """

    def __init__(self, where: str, faults: Sequence[str] = ()) -> None:
        super().__init__(listed(faults, where) if faults else where)
        self.faults = tuple(faults) or (where,)


class InvalidValueError(SettingsError):
    """A field of a `Settings` class has a value that it cannot have."""

    def __init__(self, owner: str, field: str, problem: str) -> None:
        super().__init__(f"{owner}.{field} {problem}")
        self.field, self.problem = field, problem


class Bounds(TypedDict, total=False):
    """Bounds of a number: greater or equal, greater, less or equal, less."""

    ge: float
    gt: float
    le: float
    lt: float


def setting(default: Any, help: str, **bounds: Unpack[Bounds]) -> Any:
    """Declare one field of a `Settings` class.

    Bounds apply to numbers, and to each number of a tuple. A string that may have only certain
    values has no bounds; instead, the type of its field is a `Literal`.

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
    """Base of all settings. Checks types and bounds when a value is created.

    Numbers must be finite, a boolean does not count as a number, a tuple holds at most 64 values,
    and a string has at most 4,096 characters, none of them the null character.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            try:
                value = _checked(getattr(self, field.name), field, hints[field.name])
            except _ProblemError as problem:
                raise self.invalid(field.name, str(problem)) from None
            object.__setattr__(self, field.name, value)

    def invalid(self, field: str, problem: str) -> InvalidValueError:
        """Return the error for a field whose value has a problem, such as "is 3; expected str"."""
        return InvalidValueError(type(self).__name__, field, problem)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "", section: str = "") -> Self:
        """Build from a plain mapping, such as a YAML section.

        Raises `SettingsError` with all invalid values, and all unknown names with the known ones.

        Parameters
        ----------
        values
            Values by name; missing ones keep their defaults.
        where
            The file, named at the beginning of error messages.
        section
            Path of the section within the file, for error messages. If it is empty, they show the
            name of the class.
        """
        owner = section or cls.__name__
        fields = {field.name: field for field in dataclasses.fields(cls)}
        known = ", ".join(fields)
        if not isinstance(values, Mapping):
            raise SettingsError(
                where, [f"{owner} is {shown(values)}; expected a mapping of {known}"]
            )
        faults: list[str] = []
        if unknown := [name for name in values if name not in fields]:
            in_section = f"{section}: " if section else ""
            names = shown_names(unknown, fields)
            faults.append(f"{in_section}unknown setting {names}; known: {known}")
        hints = typing.get_type_hints(cls)
        arguments = {name: value for name, value in values.items() if name in fields}
        for name, value in arguments.items():
            hint = hints[name]
            try:
                if isinstance(hint, type) and issubclass(hint, Settings):
                    if not isinstance(value, hint):
                        path = f"{section}.{name}" if section else name
                        arguments[name] = hint.from_mapping(value, "", path)
                else:
                    _checked(value, fields[name], hint)
            except _ProblemError as problem:
                faults.append(f"{owner}.{name} {problem}")
            except SettingsError as error:
                faults += error.faults
        if not faults:
            try:
                return cls(**arguments)
            except InvalidValueError as error:
                faults.append(f"{owner}.{error.field} {error.problem}")
        raise SettingsError(where, faults)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, for YAML, JSON and Dagster."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def shown(value: Any) -> str:
    """Return a value as error messages show it, in at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def listed(faults: Sequence[str], where: str = "") -> str:
    """Return one fault after `where`, or several with a line for each."""
    prefix = f"{where}: " if where else ""
    if len(faults) == 1:
        return prefix + faults[0]
    return prefix + "\n  ".join([f"{len(faults)} faults:", *faults])


def nearest(name: str, known: Iterable[str], least: float = 0.6) -> str:
    """Return " (did you mean NAME?)" with the known name that is most like `name`, or "".

    `least` is difflib's least similarity, from 0 to 1.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=least)
    return f" (did you mean {close[0]}?)" if close else ""


def shown_names(names: Iterable[Any], known: Iterable[str] = ()) -> str:
    """Return names as error messages show them, each with the nearest of the `known` names.

    The names may come from a file that is not a preset and whose content must not appear in a log.
    So only the first few are shown, and any of these that cannot be the name of a setting is
    replaced by "(no name)".
    """
    names, known = list(names), list(known)
    texts = [
        name + nearest(name, known)
        if isinstance(name, str) and name.isidentifier() and len(name) <= 40
        else "(no name)"
        for name in names[:_SHOWN_NAMES]
    ]
    rest = len(names) - len(texts)
    return ", ".join(texts) + (f" and {rest} more" if rest else "")


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_mapping()
    return list(value) if isinstance(value, tuple) else value


class _ProblemError(ValueError):
    """A field cannot have this value; the message is a sentence without its subject, the field."""


def described(field: dataclasses.Field[Any]) -> str | None:
    """Return what a field's value does, with its bounds if it has any; None if it has no help."""
    text: str | None = field.metadata.get("help")
    bounds = field.metadata.get("bounds")
    return f"{text} ({_limits(bounds)})" if text and bounds else text


def _checked(value: Any, field: dataclasses.Field[Any], hint: Any) -> Any:
    """Return a field's value as the type `hint`; raises `_ProblemError`."""
    value = _converted(value, hint)
    _check_bounds(value, field.metadata.get("bounds", {}))
    return value


def _converted(value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint`, or raise `_ProblemError`.

    An int is converted to a float and a list to a tuple if `hint` asks for that.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(_ProblemError):
                return _converted(value, option)
        raise _expected(value, " or ".join(map(_named, arguments)))
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise _ProblemError(f"is {shown(value)}; it must be one of {', '.join(arguments)}")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _expected(value, f"a list of {arguments[0].__name__}")
        if len(value) > _MAX_VALUES:
            raise _ProblemError(f"has {len(value):,} values; it must have at most {_MAX_VALUES}")
        return tuple(_converted(element, arguments[0]) for element in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise _ProblemError(f"is {shown(value)}; it must be a finite number") from None
    is_bool_for_number = isinstance(value, bool) and hint is not bool
    if not isinstance(value, hint) or is_bool_for_number:
        raise _expected(value, hint.__name__)
    if isinstance(value, float) and not math.isfinite(value):
        raise _ProblemError(f"is {value}; it must be a finite number")
    if isinstance(value, str) and (len(value) > _MAX_CHARACTERS or "\0" in value):
        raise _ProblemError(
            f"is {shown(value)}; it must have at most {_MAX_CHARACTERS:,} characters, none of them "
            "the null character"
        )
    return value


def _named(hint: Any) -> str:
    """Return a type as messages show it: the strings of a `Literal`, else the type's name."""
    if typing.get_origin(hint) is Literal:
        return ", ".join(typing.get_args(hint))
    return "null" if hint is type(None) else str(hint.__name__)


def _expected(value: Any, kind: str) -> _ProblemError:
    return _ProblemError(f"is {shown(value)}; expected {kind}")


def _limits(bounds: Mapping[str, float]) -> str:
    return " and ".join(f"{_BOUNDS[name][0]} {limit}" for name, limit in bounds.items())


def _check_bounds(value: Any, bounds: Mapping[str, float]) -> None:
    """Raise `_ProblemError` if a number, or one of a tuple of numbers, is out of bounds."""
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str):
            continue
        if all(_BOUNDS[name][1](number, bounds[name]) for name in bounds):
            continue
        limits = _limits(bounds)
        raise _ProblemError(f"is {shown(number)}; it must be {limits}")

"""Check the content of a file against the types that a dataclass declares."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmctr_pipeline.files.errors import DamagedFileError


def require_fields(kind: type, content: Mapping[str, Any], path: Path) -> None:
    """Check that `content` has each required field of a dataclass, and the right types.

    Raises `DamagedFileError`, naming file and field. Other entries are ignored, as later versions
    may add fields. Values annotated as `Any` are not checked.
    """
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in content:
            problem = _mismatch(content[field.name], hints[field.name], field.name)
            if problem:
                raise DamagedFileError(f"{path}: {problem}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DamagedFileError(f"{path} lacks {field.name}")


def _mismatch(value: Any, hint: Any, where: str) -> str | None:
    """Return where and how a value differs from a type, or None if it does not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return None
    if origin in (typing.Union, types.UnionType):
        problems = [_mismatch(value, option, where) for option in arguments]
        return None if None in problems else problems[0]
    accepted: Any = (int, float) if hint is float else origin or hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        return f"{where} is of type {type(value).__name__}, expected {_name(hint)}"
    if origin is list:
        for position, element in enumerate(value):
            problem = _mismatch(element, arguments[0], f"{where}[{position}]")
            if problem:
                return problem
    if origin is dict:
        for key, element in value.items():
            problem = _mismatch(key, arguments[0], f"a key of {where}")
            if problem is None:
                problem = _mismatch(element, arguments[1], f"{where}.{key:.80}")
            if problem:
                return problem
    return None


def _name(hint: Any) -> str:
    return getattr(typing.get_origin(hint) or hint, "__name__", str(hint))

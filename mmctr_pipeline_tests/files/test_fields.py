"""The fields of a file are checked against the annotations of a dataclass."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.fields import require_fields


@dataclasses.dataclass
class Record:
    weights: dict[str, torch.Tensor]
    count: int
    rate: float
    name: str | None = None
    names: list[str] = dataclasses.field(default_factory=list)
    rest: dict[str, Any] = dataclasses.field(default_factory=dict)


GOOD: dict[str, Any] = {"weights": {"a": torch.zeros(1)}, "count": 3, "rate": 1}


def test_correct_types_and_unknown_fields_pass() -> None:
    require_fields(Record, GOOD, Path("x.pt"))
    optional = {"name": None, "names": ["a"], "rest": {"any": object()}}
    require_fields(Record, {**GOOD, **optional, "from_a_later_version": 1}, Path("x.pt"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": 5}, "weights is of type int, expected dict"),
        ({"weights": {"a": [1.0]}}, r"weights\.a is of type list, expected Tensor"),
        ({"weights": {1: torch.zeros(1)}}, "a key of weights is of type int, expected str"),
        ({"count": 3.0}, "count is of type float, expected int"),
        ({"count": True}, "count is of type bool, expected int"),
        ({"rate": "0.1"}, "rate is of type str, expected float"),
        ({"rate": torch.tensor(0.1)}, "rate is of type Tensor, expected float"),
        ({"name": 5}, "name is of type int, expected str"),
        ({"names": ["a", 5]}, r"names\[1\] is of type int, expected str"),
        ({"rest": []}, "rest is of type list, expected dict"),
    ],
)
def test_a_wrong_type_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedFileError, match=rf"^x\.pt: {message}$"):
        require_fields(Record, {**GOOD, **changed}, Path("x.pt"))


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_field_is_named(name: str) -> None:
    content = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(DamagedFileError, match=rf"^x\.pt lacks {name}$"):
        require_fields(Record, content, Path("x.pt"))

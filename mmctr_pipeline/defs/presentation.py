"""Order, names and rounding of asset metadata in the UI."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

_DIGITS = 5
"""Significant digits of numbers: enough to tell two AUCs apart."""

_LONGER = {
    "n_valid_positive": "valid rows with a click",
    "n_valid_negative": "valid rows without a click",
    "baseline_rates_auc": "baseline click rates auc",
    "baseline_cosine_auc": "baseline title cosine auc",
}
"""Names that explain themselves, in place of the short ones of files."""

_HEADLINES = 6
"""Numbers before the pictures, so that these are seen without scrolling."""


def presented(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata in the order of the UI, with words as names and rounded numbers.

    The first six numbers come first, then pictures, tables, the other numbers, short texts, paths,
    and JSON last. Names of one kind keep their order. Names that Dagster gives a meaning
    (`dagster/...`) stay as they are.
    """
    values = {name: _rounded(value) for name, value in metadata.items()}
    headlines = [name for name, value in values.items() if _number(value) is not None][:_HEADLINES]
    others = [name for name in values if name not in headlines]
    # `sorted` keeps the order of equals.
    order = headlines + sorted(others, key=lambda name: _place(values[name]))
    return {_words(name): values[name] for name in order}


def presented_result(result: Any) -> Any:
    """Return the output of an asset with its metadata as `presented`; other values unchanged."""
    if isinstance(result, dg.Output):
        return dg.Output(
            result.value, metadata=presented(result.metadata), data_version=result.data_version
        )
    return result


def _place(value: Any) -> int:
    if isinstance(value, dg.JsonMetadataValue):
        return 5
    if isinstance(value, dg.PathMetadataValue):
        return 4
    if isinstance(value, dg.MarkdownMetadataValue):
        return 0 if value.value.startswith("![") else 1
    if isinstance(value, dg.TableMetadataValue):
        return 1
    return 2 if _number(value) is not None else 3


def _number(value: Any) -> float | int | None:
    plain = value.value if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue) else value
    return plain if isinstance(plain, int | float) else None


def _rounded(value: Any) -> Any:
    number = _number(value)
    return float(f"{number:.{_DIGITS}g}") if isinstance(number, float) else value


def _words(name: str) -> str:
    if "/" in name:
        return name
    words = _LONGER.get(name, name).replace("_", " ").split(" ")
    return " ".join("AUC" if word == "auc" else word for word in words)

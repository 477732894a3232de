"""Hypothesis strategies for data sets: valid ones, and ones with a few faults."""

from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

Columns = dict[str, list[Any]]
Types = dict[str, list[pa.DataType]]

_LETTERS = st.characters(exclude_characters="\0^", exclude_categories=["Cs", "Nd"])
_ID_KINDS = {
    "dense": st.integers(1, 6),
    "sparse": st.integers(1, 2**63 - 1),
    "strings": st.text(_LETTERS, min_size=1, max_size=3),
}
_TAGS = st.none() | st.lists(st.integers(0, 30), max_size=3)
_TITLES = st.none() | st.text(_LETTERS, max_size=4)
_LEVELS = st.integers(0, 10)
_INTEGERS = ["int64", "int32", "uint8", "int8", "uint64", "uint32"]
_CHANGES = ["value", "value", "history", "repeat", "type", "drop", "empty"]
# One of these replaces a value. In every column but item_title, at least one of them is wrong.
_WRONG = [None, -1, 0, 2, 11, 12_345, 2**31, 2**63, "", "unknown"]


@st.composite
def valid_files(draw: st.DrawFn) -> dict[str, Columns]:
    """Draw the four files of a data set without faults."""
    kind = draw(st.sampled_from(list(_ID_KINDS)))
    items = draw(st.lists(_ID_KINDS[kind], min_size=1, max_size=5, unique=True))
    user_ids = _ID_KINDS[draw(st.sampled_from(list(_ID_KINDS)))]
    is_padded, width = draw(st.booleans()), draw(st.integers(0, 4))
    padding = "" if kind == "strings" else 0

    def rows(least: int) -> Columns:
        n_rows = draw(st.integers(least, 6))

        def column(values: st.SearchStrategy[Any], unique: bool = False) -> list[Any]:
            return draw(st.lists(values, min_size=n_rows, max_size=n_rows, unique=unique))

        histories = column(st.lists(st.sampled_from(items), max_size=width))
        if is_padded:
            histories = [[padding] * (width - len(history)) + history for history in histories]
        return {
            "user_id": column(user_ids),
            "item_id": column(st.sampled_from(items)),
            "item_seq": histories,
            "likes_level": column(_LEVELS),
            "views_level": column(_LEVELS),
            "label": [0, 1, *column(st.integers(0, 1))[2:]],
            "ID": column(st.integers(-(2**63), 2**63 - 1), unique=True),
        }

    def item_column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=len(items), max_size=len(items)))

    files = {
        "item_feature": {
            "item_id": items,
            "item_title": item_column(_TITLES),
            "item_tags": item_column(_TAGS),
            "likes_level": item_column(_LEVELS),
            "views_level": item_column(_LEVELS),
        },
        "train": rows(2),
        "valid": rows(2),
        "test": rows(1),
    }
    for name in ("train", "valid"):
        del files[name]["ID"]
    del files["test"]["label"]
    return files


@st.composite
def files_with_faults(draw: st.DrawFn) -> dict[str, pa.Table]:
    """Draw the four files with up to two changes; a change may be a fault."""
    files = draw(valid_files())
    types: dict[tuple[str, str], pa.DataType] = {}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(list(files)))
        column = draw(st.sampled_from(list(files[name])))
        values = files[name][column]
        row = draw(st.integers(0, len(values) - 1)) if values else 0
        match draw(st.sampled_from(_CHANGES)):
            case "value" if values:
                values[row] = draw(wrong_values(values, row))
            case "history" if values and isinstance(values[row], list):
                values[row] = draw(st.permutations(values[row] + values[row][-1:]))
            case "repeat" if len(values) > 1:
                values[row] = values[row - 1]
            case "type":
                types[name, column] = draw(st.sampled_from([pa.float64(), pa.string(), pa.bool_()]))
            case "drop" if len(files[name]) > 1:
                del files[name][column]
            case "empty":
                files[name] = {column: [] for column in files[name]}
    return {
        name: pa.table(
            {
                column: draw(arrays(values, types.get((name, column))))
                for column, values in columns.items()
            }
        )
        for name, columns in files.items()
    }


@st.composite
def wrong_values(draw: st.DrawFn, values: list[Any], row: int) -> Any:
    """Draw a replacement for the value of a row.

    It is one of `_WRONG`. In a column of lists it is None, or the list of the row with one of
    `_WRONG` inserted.
    """
    value, wrong = values[row], draw(st.sampled_from(_WRONG))
    if isinstance(value, list) and draw(st.booleans()):
        position = draw(st.integers(0, len(value)))
        return [*value[:position], wrong, *value[position:]]
    is_list_column = any(isinstance(other, list) for other in values)
    return None if is_list_column else wrong


@st.composite
def arrays(draw: st.DrawFn, values: list[Any], changed: pa.DataType | None = None) -> pa.Array:
    """Draw an Arrow array of the values, in any type that holds them.

    If one of them is a text, all become texts. With `changed`, the values of a column without
    lists are converted to this type instead.
    """
    if changed is not None and not any(isinstance(value, list) for value in values):
        values = [None if value is None else _converted(value, changed) for value in values]
        return pa.array(values, changed)
    lists = [value if isinstance(value, list) else [value] for value in values]
    flat = [element for elements in lists for element in elements]
    if any(isinstance(element, str) for element in flat):
        values = [_as_text(value) for value in values]
        candidates = [draw(st.sampled_from([pa.string(), pa.large_string()]))]
    else:
        candidates = [pa.type_for_alias(draw(st.sampled_from(_INTEGERS))), pa.int64(), pa.uint64()]
    is_list = any(isinstance(value, list) for value in values)
    list_type = draw(st.sampled_from([pa.list_, pa.large_list])) if is_list else None
    for candidate in [*candidates, pa.float64()]:
        try:
            return pa.array(values, list_type(candidate) if list_type else candidate)
        except (pa.ArrowInvalid, OverflowError):
            # A value does not fit into this type.
            continue
    raise AssertionError(f"no type holds {values}")


def _converted(value: Any, data_type: pa.DataType) -> Any:
    if data_type == pa.string():
        return str(value)
    return bool(value) if data_type == pa.bool_() else 0.5


def _as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_text(element) for element in value]
    return None if value is None else str(value)

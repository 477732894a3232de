"""Find and read the text files of public data sets; errors name file, column and row."""

import csv
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mmctr_pipeline.data.schemas import MAX_ID
from mmctr_pipeline.data.validation import DataError, DataNotFoundError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RawData:
    """Interactions and items of a public data set, with their own ids.

    Parameters
    ----------
    interactions
        Columns `user_id`, `item_id`, `time` (int64) and `liked` (bool).
    items
        Columns `item_id`, `item_title`, `item_tags`, `likes_level` and `views_level`.
    tag_names
        Names of tag 1, 2, and so on.
    timed
        Whether times of different users can be compared.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    tag_names: Sequence[str]
    timed: bool = True


def find_file(folder: Path, *patterns: str) -> Path:
    """Return the file that `find_optional` finds; raise `DataNotFoundError` if there is none."""
    path = find_optional(folder, *patterns)
    if path is None:
        raise DataNotFoundError(
            f"neither {folder} nor a folder in it has {' or '.join(patterns)}. Fix: unpack the "
            "download there, or name the folder that has the file"
        )
    return path


def find_optional(folder: Path, *patterns: str) -> Path | None:
    """Return the file or folder of the first pattern that matches in `folder` or one folder below.

    Patterns are names with wildcards. Raises `DataNotFoundError` if a pattern matches twice.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder} is not a folder. Fix: name the folder of the raw files")
    for pattern in patterns:
        paths = sorted([*folder.glob(pattern), *folder.glob(f"[!._]*/{pattern}")])
        if len(paths) > 1:
            raise DataNotFoundError(
                f"found {pattern} twice: {paths[0]} and {paths[1]}. Fix: name the folder of one "
                "download, or move the other away"
            )
        if paths:
            return paths[0]
    return None


def read_text(path: Path) -> str:
    """Return a text file in UTF-8; invalid bytes are replaced by U+FFFD and counted in the log."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if n_replaced := text.count("\ufffd"):
        logger.info(f"{path.name}: {n_replaced:,} characters are not valid UTF-8")
    return text


def read_dat(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read lines of values separated by `::`, without a header, as strings.

    A file that is not UTF-8 is read as latin-1, the encoding of MovieLens-1M.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = pl.Series(text.replace("\r\n", "\n").rstrip("\n").split("\n"))
    values = lines.str.split("::")
    wrong = (values.list.len() != len(columns)).arg_true()
    if len(wrong):
        row = wrong[0]
        raise DataError(
            path,
            f"the line {lines[row][:80]!r} has {len(values[row])} values, but {len(columns)} are "
            f"expected: {'::'.join(columns)}",
            "download the file again, or correct the line",
            row=row,
        )
    return pl.DataFrame({name: values.list.get(index) for index, name in enumerate(columns)})


def read_csv(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Read columns of a CSV file with a header as strings."""
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            path,
            f"not a readable CSV file ({reason})",
            "download the file again, or correct the row",
            row=_unreadable_row(path),
        ) from error
    for name in columns:
        if name not in frame.columns:
            raise DataError(
                path,
                f"the column is missing; the file has {', '.join(frame.columns)}",
                f"the header must be {','.join(columns)}; download the file again or rename the "
                "column",
                name,
            )
    if not len(frame):
        raise DataError(path, "the file has no rows", "download it again")
    return frame.select(columns)


def integers(frame: pl.DataFrame, column: str, path: Path, minimum: int = 1) -> pl.Series:
    """Return a column of strings as int64; raise `DataError` for other values.

    Parameters
    ----------
    frame
        A table of strings.
    column
        Name of the column.
    path
        The file, for messages.
    minimum
        Smallest valid value; ids begin at 1.
    """
    texts = frame[column]
    numbers = texts.str.strip_chars().cast(pl.Int64, strict=False)
    fix = f"an integer from {minimum} to {MAX_ID} is expected; correct or remove the row"
    _refuse(texts, numbers.is_null() | (numbers < minimum), path, fix)
    return numbers


def ratings(frame: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """Return a column of strings as ratings from 0.5 to 5, float64; raise `DataError` otherwise."""
    texts = frame[column]
    numbers = texts.str.strip_chars().cast(pl.Float64, strict=False)
    fix = "a rating from 0.5 to 5 is expected; correct or remove the row"
    _refuse(texts, numbers.is_null() | ~numbers.is_between(0.5, 5), path, fix)
    return numbers


def refuse_duplicates(ids: pl.Series, path: Path) -> None:
    """Raise `DataError` for the first row whose id occurred before."""
    repeated = (~ids.is_first_distinct()).arg_true()
    if len(repeated):
        raise DataError(
            path, f"the id {ids[repeated[0]]} occurs twice", "keep one row", ids.name, repeated[0]
        )


def tag_columns(names: pl.Series) -> tuple[pl.Series, list[str]]:
    """Number the distinct names from 1 as tags; return lists of tags, and the names by tag."""
    known = sorted(names.explode().drop_nulls().unique().to_list())
    tags = names.list.eval(
        pl.element().replace_strict(known, range(1, len(known) + 1), return_dtype=pl.Int64)
    )
    # Without any name, `replace_strict` keeps the type of strings.
    return tags.cast(pl.List(pl.Int64)), known


def _unreadable_row(path: Path) -> int | None:
    """Return the first row that is not UTF-8 or has more values than the header, if any."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        n_columns = len(next(rows, []))
        for row, values in enumerate(rows):
            is_text = not any("\udc80" <= letter <= "\udcff" for letter in "".join(values))
            if len(values) > n_columns or not is_text:
                return row
    return None


def _refuse(texts: pl.Series, wrong: pl.Series, path: Path, fix: str) -> None:
    """Raise `DataError` for the first wrong value, with the number of all wrong values."""
    rows = wrong.arg_true()
    if len(rows):
        value = texts[rows[0]]
        shown = "missing" if value is None else f"{value[:80]!r}"
        counted = f" ({len(rows):,} invalid values in all)" if len(rows) > 1 else ""
        raise DataError(path, f"the value is {shown}{counted}", fix, texts.name, rows[0])

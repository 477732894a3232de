"""The text of an item: a template, filled in with its title and tag names."""

import csv
import dataclasses
import itertools
import re
import string
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.validation import DataError

FIELDS = ("title", "tags")

# Control characters except tabs and line ends, which are whitespace. Tokenisers drop them silently.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class TemplateError(ValueError):
    """The template cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """The text of each item, "" if it has none, with counts of unusual ones.

    `counts`: `missing` (no text), `repaired` (a title that is not UTF-8, including lone
    surrogates; the invalid bytes became U+FFFD), `control_characters` (a title with NUL or
    another control character), `wordless` (a text without any letter or digit, such as only
    emoji), and, if the template has tags, `unnamed_tags` (tags without a name).
    """

    texts: list[str]
    counts: dict[str, int]


def item_texts(items: ItemTable, template: str, tag_names: Mapping[int, str] | None) -> ItemTexts:
    """Return the filled-in template of each item, in the order of `items`.

    A null title counts as "". `{tags}` becomes the names of the item's tags, separated by spaces.
    Raises `TemplateError` as `template_fields` does, and for `{tags}` without `tag_names`.
    """
    fields = template_fields(template)
    titles, n_repaired = _titles(items.title)
    tags, n_unnamed = [""] * len(items), 0
    if "tags" in fields:
        if tag_names is None:
            raise TemplateError(
                f"the template {template!r} has tags, which are numbers in the data. Fix: set "
                "encoders.text.tag_names to a CSV or parquet file with columns tag_id and "
                "tag_name, or use the template '{title}'"
            )
        tags, n_unnamed = _tag_texts(items.tags, tag_names)
    with_title = "title" in fields
    texts = [
        template.format(title=title, tags=names).strip()
        if names or (with_title and title.strip())
        else ""
        for title, names in zip(titles, tags, strict=True)
    ]
    counts = {
        "missing": texts.count(""),
        "repaired": n_repaired,
        "control_characters": sum(map(bool, map(_CONTROL.search, titles))),
        "wordless": sum(bool(text) and not any(map(str.isalnum, text)) for text in texts),
    }
    if "tags" in fields:
        counts["unnamed_tags"] = n_unnamed
    return ItemTexts(texts, counts)


def template_fields(template: str) -> set[str]:
    """Return the fields that a template names.

    Raises `TemplateError` if the template cannot be parsed, names no field or an unknown one, or
    has a format or a conversion.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TemplateError(f"the template {template!r} cannot be parsed: {error}") from error
    fields = {field for _, field, _, _ in parts if field is not None}
    # A format or a conversion, as in {title:d}, could fail for some titles only.
    has_format = any(format_spec or conversion for _, _, format_spec, conversion in parts)
    if not fields or not fields <= set(FIELDS) or has_format:
        raise TemplateError(
            f"the template {template!r} must name one or both of {{title}} and {{tags}}, "
            "and nothing else in braces"
        )
    return fields


def read_tag_names(path: Path) -> dict[int, str]:
    """Read `tag_id` and `tag_name` from a parquet or CSV file.

    Raises `DataError` if the file cannot be read, an id occurs twice, or a name is empty.
    """
    fix = "give a CSV or parquet file with the columns tag_id (integer) and tag_name"
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            # Spreadsheets write a byte order mark before the first column's name.
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, pa.ArrowException, csv.Error) as error:
        raise DataError(path, f"tag names cannot be read: {error}", fix) from error
    names: dict[int, str] = {}
    for number, row in enumerate(rows):
        if "tag_id" not in row or "tag_name" not in row:
            raise DataError(path, f"has the columns {', '.join(map(str, row))}", fix)
        try:
            tag = int(row["tag_id"])
        except (TypeError, ValueError):
            raise DataError(path, f"holds {row['tag_id']!r}", fix, "tag_id", number) from None
        name = str(row["tag_name"] or "").strip()
        if not name:
            raise DataError(path, "the name is empty", "omit the row", "tag_name", number)
        if tag in names:
            raise DataError(path, f"{tag} occurs twice", "keep one", "tag_id", number)
        names[tag] = name
    return names


def _titles(column: pa.Array) -> tuple[list[str], int]:
    """Return the titles as Python strings, and how many had to be repaired.

    Parquet does not check that text is UTF-8.
    """
    raw_titles = [raw or b"" for raw in column.cast(pa.large_binary()).to_pylist()]
    titles = [raw.decode(errors="replace") for raw in raw_titles]
    pairs = zip(titles, raw_titles, strict=True)
    return titles, sum(title.encode() != raw for title, raw in pairs)


def _tag_texts(tags: Ragged, names: Mapping[int, str]) -> tuple[list[str], int]:
    """Return the joined tag names of each item, and how many tags have no name."""
    known = [names.get(tag) for tag in tags.values.tolist()]
    lists = itertools.pairwise(tags.offsets.tolist())
    texts = [" ".join(filter(None, known[begin:end])) for begin, end in lists]
    return texts, known.count(None)

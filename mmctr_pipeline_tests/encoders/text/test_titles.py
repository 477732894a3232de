"""Text templates are filled in from titles and tags; bad ones are refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.encoders.text.titles import (
    TemplateError,
    item_texts,
    read_tag_names,
    template_fields,
)
from mmctr_pipeline_tests.encoders.text.titled_items import item_table, unchecked_titles

NAMES = {7: "cats", 8: "home cooking", 9: "DIY"}


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("{title}", {"title"}),
        ("{title} {tags}", {"title", "tags"}),
        ("about {tags}", {"tags"}),
        ("{{literally}} {title}", {"title"}),
    ],
)
def test_fields_of_a_template_are_found(template: str, fields: set[str]) -> None:
    assert template_fields(template) == fields


@pytest.mark.parametrize(
    "template",
    [
        "",
        "title",
        "{}",
        "{0}",
        "{title} {views}",
        "{title.__class__}",
        "{title[0]}",
        "{title!r}",
        "{title:d}",
        "{title:{tags}}",
    ],
)
def test_templates_without_fields_or_with_other_fields_are_rejected(template: str) -> None:
    with pytest.raises(TemplateError, match=r"must name one or both of \{title\} and \{tags\}"):
        template_fields(template)


@pytest.mark.parametrize("template", ["{title", "title}"])
def test_unbalanced_brace_is_rejected(template: str) -> None:
    with pytest.raises(TemplateError, match="cannot be parsed: "):
        template_fields(template)


def test_template_is_filled_with_title_and_tag_names() -> None:
    items = item_table(["A cat", "Soup", None, None], [[7, 9], [8], [], [9]])
    texts = item_texts(items, "Video: {title} #{tags}", NAMES)
    # Without title and tags an item has no text, even if the template has other words.
    assert texts.texts == [
        "Video: A cat #cats DIY",
        "Video: Soup #home cooking",
        "",
        "Video:  #DIY",
    ]
    assert texts.counts["missing"] == 1
    assert texts.counts["unnamed_tags"] == 0
    assert item_texts(items, "{title} {tags}", NAMES).texts[3] == "DIY"


def test_template_with_only_tags_gives_no_text_to_items_without_tags() -> None:
    items = item_table(["A cat", "Soup"], [[], [8]])
    assert item_texts(items, "about {tags}", NAMES).texts == ["", "about home cooking"]


def test_tags_without_a_name_are_omitted_and_counted() -> None:
    items = item_table(["A cat", "Soup", None], [[7, 1], [1, 2, 8, 3], [2]])
    texts = item_texts(items, "{title} {tags}", NAMES)
    assert texts.texts == ["A cat cats", "Soup home cooking", ""]
    assert texts.counts["unnamed_tags"] == 5
    assert "unnamed_tags" not in item_texts(items, "{title}", NAMES).counts


def test_template_with_tags_needs_tag_names() -> None:
    with pytest.raises(TemplateError, match=r"set encoders\.text\.tag_names to a CSV or parquet"):
        item_texts(item_table(["A cat"], [[7]]), "{title} {tags}", None)


def test_braces_in_titles_and_names_are_not_templates() -> None:
    items = item_table(["{tags} {title!r} {0} }{"], [[7]])
    texts = item_texts(items, "{title} {tags}", {7: "{title}"})
    assert texts.texts == ["{tags} {title!r} {0} }{ {title}"]


def test_odd_titles_are_kept_and_counted() -> None:
    odd = {
        "null": None,
        "empty": "",
        "blank": " \t\n\u3000",
        "nul": "a\0b",
        "only nul": "\0",
        "c1": "a\x85b",
        "lines": "two\r\nlines\t",
        "emoji": "😂😂 🎉",
        "marks": "?!",
        "cjk": "你好，世界",
        "long": "word " * 20_000,
        "padded": "  x ",
    }
    found = item_texts(item_table(list(odd.values())), "{title}", None)
    texts = dict(zip(odd, found.texts, strict=True))
    assert [name for name, text in texts.items() if not text] == ["null", "empty", "blank"]
    assert (texts["nul"], texts["lines"], texts["padded"]) == ("a\0b", "two\r\nlines", "x")
    assert texts["long"] == odd["long"].strip()
    assert found.counts == {
        "missing": 3,
        "repaired": 0,
        "control_characters": 3,
        "wordless": 3,  # only nul, emoji, marks
    }


def test_invalid_utf8_is_repaired_and_counted() -> None:
    # A lone surrogate as some writers store it, a lone byte, and half a character.
    raw = [b"caf\xc3\xa9", b"half \xed\xa0\xbd a pair", b"caf\xe9", b"\xe4\xbd", None]
    texts = item_texts(item_table(unchecked_titles(raw)), "{title}", None)
    assert texts.texts == ["café", "half \ufffd\ufffd\ufffd a pair", "caf\ufffd", "\ufffd", ""]
    assert texts.counts["repaired"] == 3
    assert [text.encode() for text in texts.texts]


def write_tag_names(path: Path, rows: dict[str, list[object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    else:
        lines = [
            ",".join(rows),
            *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True)),
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tag_names_are_read_from_csv_and_parquet(tmp_path: Path, suffix: str) -> None:
    rows: dict[str, list[object]] = {
        "tag_name": ["cats", " home cooking", "猫"],
        "tag_id": [7, 8, 11_739],
        "another_column": [1, 2, 3],
    }
    path = write_tag_names(tmp_path / f"names{suffix}", rows)
    assert read_tag_names(path) == {7: "cats", 8: "home cooking", 11_739: "猫"}


def test_tag_names_are_read_from_a_spreadsheet_export(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes('\ufefftag_id,tag_name\r\n7,"cats, big"\r\n8,1984\r\n'.encode())
    assert read_tag_names(path) == {7: "cats, big", 8: "1984"}
    years = write_tag_names(tmp_path / "years.parquet", {"tag_id": [8], "tag_name": [1984]})
    assert read_tag_names(years) == {8: "1984"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("rows", "column", "row", "message"),
    [
        ({"tag_id": [7], "name": ["cats"]}, None, None, "has the columns tag_id, name"),
        ({"tag_id": ["7", "x"], "tag_name": ["a", "b"]}, "tag_id", 1, "holds 'x'"),
        ({"tag_id": [7, 8], "tag_name": ["a", "  "]}, "tag_name", 1, "the name is empty"),
        ({"tag_id": [7, 8, 7], "tag_name": ["a", "b", "c"]}, "tag_id", 2, "7 occurs twice"),
    ],
)
def test_invalid_tag_names_raise_with_column_and_row(
    tmp_path: Path,
    suffix: str,
    rows: dict[str, list[object]],
    column: str | None,
    row: int | None,
    message: str,
) -> None:
    path = write_tag_names(tmp_path / f"names{suffix}", rows)
    with pytest.raises(DataError, match=message) as error:
        read_tag_names(path)
    assert (error.value.file, error.value.column, error.value.row) == (path, column, row)
    assert error.value.fix


def test_unreadable_tag_names_raise(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: tag names cannot be read"):
        read_tag_names(tmp_path / "gone.csv")
    for name, content in (("latin.csv", b"tag_id,tag_name\n7,caf\xe9\n"), ("no.parquet", b"PAR")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="Fix: give a CSV or parquet file with the columns"):
            read_tag_names(tmp_path / name)
    short = tmp_path / "short.csv"
    short.write_text("tag_id,tag_name\n7\n")
    with pytest.raises(DataError, match="the name is empty"):
        read_tag_names(short)

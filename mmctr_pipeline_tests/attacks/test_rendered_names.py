"""Hostile titles and names are shown as text in Markdown and HTML; hostile zips stay packed."""

import dataclasses
import html
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mmctr_pipeline.comparison.output import write_report
from mmctr_pipeline.comparison.table import COLUMNS, Leaderboard
from mmctr_pipeline.comparison.table_row import Outcome
from mmctr_pipeline.files.markdown import escaped, table
from mmctr_pipeline.registry.card import model_card
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline.submission.files import check_submission, submission_frame, write_submission
from mmctr_pipeline_tests.comparison.test_table import REPORTING, draw_scores, outcome, row
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "svg": '"><svg/onload=alert(1)>',
    "comment": "a <!-- b",
    "entity": "&lt;b&gt; &amp;",
    "link": "[click](javascript:alert(1))",
    "reference": "[a][b]\n\n[b]: http://evil.example",
    "definition": "[b]: http://evil.example",
    "picture": "![x](http://evil.example/x.png)",
    "address": "<http://evil.example>",
    "heading": "# title",
    "second line": "title\n# heading\n\n---",
    "underline": "title\n===",
    "cells": "a | b | c\n| - | - |",
    "escaped pipe": "a \\| b",
    "backslash": "end\\",
    "code": "`code` and ```` ```python ````",
    "emphasis": "*a* **b** _c_ __init__ ~~d~~",
    "snake": "text_embeddings __main__ _x a_",
    "list": "- item",
    "numbered": "1. item",
    "numbered higher": "12) item",
    "quote": "> quote",
    "rule": "---",
    "formula": "$\\frac{$ $x",
    "controls": "a\x00b\x1b[31mc\x7f",
    "direction": "a\u202egnp.exe",
    "blank lines": "a\r\n\r\n\u2028b",
    "emoji": "👩‍👩‍👧 #fun 🎉 50 % & more",
}


def rendered(markdown: str) -> str:
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return renderer.render(markdown)


def shown(rendered_html: str) -> str:
    """Return the text that a browser shows."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", rendered_html)).split())


def tags(rendered_html: str) -> set[str]:
    return set(re.findall(r"<([a-z0-9]+)", rendered_html))


def printable(text: str) -> str:
    """Return text without control characters and with single spaces, as a browser shows it."""
    return " ".join(re.sub("[\x00-\x08\x0e-\x1b\x7f\u202a-\u202e]", "", text).split())


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    ("form", "expected"),
    [("{}", {"p"}), ("# {}", {"h1"}), ("Model {} of today.", {"p"}), ("**{}**", {"p", "strong"})],
)
def test_hostile_text_is_shown_literally(name: str, form: str, expected: set[str]) -> None:
    found = rendered(form.format(escaped(HOSTILE[name])))
    assert tags(found) == expected
    plain = form.replace("#", "").replace("*", "")
    assert shown(found) == printable(plain.format(HOSTILE[name]))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_stays_in_its_table_cell(name: str) -> None:
    cell = escaped(HOSTILE[name])
    found = rendered(table(["a", "b"], [[cell, "1"], ["2", cell]], "lr"))
    assert tags(found) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert found.count("<td") == 4
    assert shown(found) == shown(
        f"a b {html.escape(printable(HOSTILE[name]))} 1 2 {html.escape(printable(HOSTILE[name]))}"
    )


@pytest.mark.parametrize("text", ["http://evil.example/x", "www.evil.example", "me@evil.example"])
def test_bare_addresses_do_not_become_links(text: str) -> None:
    """GitHub turns addresses into links unless some of their characters are escaped."""
    assert not re.search(r"\w://|www\.|\w@", escaped(text))
    assert shown(rendered(escaped(text))) == text


@pytest.mark.parametrize(
    "text",
    [
        "similarity_attention",
        "0.8123 [0.8000, 0.8200]",
        "-0.0012",
        "all-MiniLM-L6-v2",
        "[512, 256]",
        "2026-01-02T03:04:05+00:00",
    ],
)
def test_ordinary_text_is_not_escaped(text: str) -> None:
    assert escaped(text) == text


ALLOWED = {"h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_model_card_shows_hostile_names_as_text(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    model_file = dataclasses.replace(
        MODEL_FILE,
        preset=text,
        model_config={"name": text},
        data_fingerprint=text,
        vector_identity=text,
        encoder_identities={text: text},
        resolved_config={text: {text: text}},
        library_versions={text: text},
    )
    written = (write_version(tmp_path, model_file) / "card.md").read_text("utf-8")
    # Without the metadata, which pages that show cards leave out too.
    safe, found = (rendered(ModelCard(c).text) for c in (model_card(MODEL_FILE, "v"), written))
    assert tags(found) == ALLOWED
    assert found.count("<h2") == safe.count("<h2")
    assert f"with preset {printable(text)}." in shown(found)
    assert found.count("<h1") == 1


@pytest.mark.parametrize(
    "name", ["script", "link", "second line", "cells", "formula", "controls", "numbered"]
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_comparison_shows_hostile_names_as_text(name: str, tmp_path: Path) -> None:
    text = HOSTILE[name]
    failed = row(f"{text} failed", Outcome(1, "key", "inputs", failure=text))
    rows = [row(text, outcome(1, draw_scores(2.0, 1))), row("b", outcome(1, draw_scores(1.0, 2)))]
    board = Leaderboard.compare([*rows, failed], REPORTING, pairs=[(text, "b")])
    lines = write_report(board, tmp_path, "table", f"{text}: 600 rows", 0.9)
    found = rendered("\n".join(lines))
    assert tags(found) == ALLOWED - {"h1", "h2", "strong"}
    assert found.count("<td") == 3 * len(COLUMNS)
    assert shown(found).startswith(printable(f"{text}: 600 rows"))
    # Matplotlib would fail on a name that it reads as a formula.
    assert (tmp_path / "table.png").stat().st_size > 1000


def write_zip(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"ID,Task1&2\n1,0.5\n")


@pytest.mark.parametrize(
    "names",
    [
        ["../../prediction.csv"],
        ["/tmp/prediction.csv"],
        ["prediction.csv", "../outside"],
        ["prediction.csv", "prediction.csv"],
        ["C:\\prediction.csv"],
        [],
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_unexpected_members_is_reported_and_not_unpacked(
    names: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    csv, packed = folder / "submission.csv", folder / "prediction.zip"
    write_submission(submission_frame(np.array([1]), np.array([0.5])), csv, packed)
    write_zip(packed, names)
    problems = check_submission(csv, packed, np.array([1]))
    assert "must hold only prediction.csv" in problems[0]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "prediction.zip",
        "submission.csv",
    ]


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    csv, packed = tmp_path / "submission.csv", tmp_path / "prediction.zip"
    write_submission(submission_frame(np.array([1]), np.array([0.5])), csv, packed)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("prediction.csv", bytes(2**24))
    assert packed.stat().st_size < 10**6
    assert "is not the CSV beside it" in check_submission(csv, packed, np.array([1]))[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("position", [0, 20, 40, 60, -60, -30, -5])
def test_checking_a_damaged_zip_raises_nothing(method: int, position: int, tmp_path: Path) -> None:
    csv, packed = tmp_path / "submission.csv", tmp_path / "prediction.zip"
    write_submission(submission_frame(np.array([1]), np.array([0.5])), csv, packed)
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("prediction.csv", csv.read_bytes())
    content = bytearray(packed.read_bytes())
    content[position] ^= 0xFF
    packed.write_bytes(content)
    assert len(check_submission(csv, packed, np.array([1]))) <= 1

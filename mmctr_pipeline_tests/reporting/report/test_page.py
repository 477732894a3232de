"""The page of a report is complete, needs no network, and shows the figures of the model."""

import dataclasses
import html.parser
import io
import itertools
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmctr_pipeline.baselines import NAMES
from mmctr_pipeline.data.images import index_images
from mmctr_pipeline.registry.comparison import ModelComparison, PairedAuc
from mmctr_pipeline.reporting.report import items, quality
from mmctr_pipeline.reporting.report.inputs import ReportError, ReportInputs
from mmctr_pipeline.reporting.report.page import MAX_PAGE_BYTES, ModelReport, build_report
from mmctr_pipeline_tests.reporting.report.report_case import N_ITEMS

SECTIONS = [
    *("quality", "training", "curves", "slices", "scores", "map", "neighbours", "predictions"),
    *("data", "contest", "configuration"),
]
NAMESPACES = {
    "http://www.w3.org/2000/svg",
    "http://www.w3.org/1999/xlink",
    "http://www.w3.org/2000/xmlns/",
}
"""Names of SVG's elements and attributes, which look like addresses; nothing is fetched there."""


class Page(html.parser.HTMLParser):
    """The parts of a page: its elements, and the cells of its tables by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        self._in_cell = tag in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def row(self, name: str) -> list[str]:
        """Return the first row of a table with this name."""
        return next(row for row in self.rows if row and row[0] == name)


@pytest.fixture(scope="module")
def page(report: ModelReport) -> Page:
    return Page(report.html)


def test_the_page_is_one_small_file_that_names_no_address(report: ModelReport, page: Page) -> None:
    assert len(report.html.encode()) < MAX_PAGE_BYTES
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<>`)]*", report.html))
    assert {each for each in addresses if each.startswith("http")} == NAMESPACES
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        target = attributes.get("src") or attributes.get("href")
        assert target is None or target.startswith("#"), (tag, target)
        assert not [name for name in attributes if name.startswith("on")]


def test_the_page_has_every_section_in_order_and_describes_pictures_and_charts(page: Page) -> None:
    ids = [attributes.get("id") for tag, attributes in page.elements if tag == "section"]
    assert ids == SECTIONS
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]
    charts = [a for _, a in page.elements if "data-chart" in a]
    assert len(charts) == 7
    assert all(each["role"] == "img" and each["aria-label"] for each in charts)
    covers = [attributes for tag, attributes in page.elements if tag == "img"]
    assert covers
    assert all(str(each["alt"]).startswith("Cover of ") for each in covers)
    assert ("html", {"lang": "en"}) in page.elements
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    steps = [after - before for before, after in itertools.pairwise(headings)]
    assert headings.count(1) == 1
    assert max(steps) == 1, "a level of headings is skipped"


def test_the_figures_are_those_of_the_model(
    report: ModelReport, page: Page, inputs: ReportInputs
) -> None:
    metrics = inputs.model.metrics
    auc = f"{metrics['valid_auc']:.4f}"
    interval = f"{metrics['valid_auc_low']:.4f} to {metrics['valid_auc_high']:.4f}"
    assert f"<dd>{auc} ({interval})</dd>" in report.html
    for name in ("valid_log_loss", "valid_calibration_error"):
        assert f"{metrics[name]:.4f}" in report.html
    n_clicks = f"{metrics['n_valid_positive']:,.0f}"
    assert page.row("all valid rows")[1:5] == ["1,500", n_clicks, auc, interval]
    for key in inputs.model.baselines:
        shown = metrics[f"baseline_{key}_auc"]
        assert page.row(NAMES[key])[1] == f"{shown:.4f}"
    # The slices know the same cold items as the model's own report.
    (cold, *_) = inputs.model.evaluation["by_popularity"]
    assert page.row("cold items")[1] == f"{cold['n_rows']:,}"
    assert auc in report.summary
    for png in report.pictures.values():
        assert len(png) <= 50_000
        assert Image.open(io.BytesIO(png)).width > 300


def test_the_roc_curve_has_the_area_of_the_auc(inputs: ReportInputs) -> None:
    label = inputs.dataset.valid.label
    assert label is not None
    points = quality.roc_curve(label, inputs.valid_scores)
    fpr, tpr = (np.array([point[name] for point in points]) for name in ("fpr", "tpr"))
    area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
    assert area == pytest.approx(inputs.model.metrics["valid_auc"], abs=2e-3)
    assert len(points) <= 152
    assert all(p["low"] - 1e-9 <= p["tpr"] <= p["high"] + 1e-9 for p in points)


def test_confident_predictions_are_the_extremes_of_either_label(inputs: ReportInputs) -> None:
    label, scores = inputs.dataset.valid.label, inputs.valid_scores
    assert label is not None
    right, wrong = items.confident_predictions(inputs.dataset, scores)
    highest = np.sort(scores[label == 1])[::-1][:5]
    lowest = np.sort(scores[label == 0])[:5]
    assert [each.probability for each in right] == [*highest.tolist(), *lowest.tolist()]
    assert [each.clicked for each in wrong] == [False] * 5 + [True] * 5
    assert wrong[0].probability == scores[label == 0].max()
    assert wrong[5].probability == scores[label == 1].min()


@pytest.mark.parametrize("kind", ["as they are", "all equal", "on a line"])
def test_the_map_places_similar_items_close_together_and_copes_with_degenerate_vectors(
    inputs: ReportInputs, kind: str
) -> None:
    fused = inputs.vectors.fused
    line = np.outer(np.arange(len(fused.item_id)), np.ones(fused.dim)).astype(np.float32)
    vectors = {
        "as they are": fused.vectors,
        "all equal": np.ones_like(fused.vectors),
        "on a line": line,
    }[kind]
    points = items.embedding_map(inputs.dataset, dataclasses.replace(fused, vectors=vectors))
    assert len(points) == N_ITEMS - 1, "the item without a vector is left out"
    places = np.array([(point.x, point.y) for point in points])
    assert np.isfinite(places).all()
    if kind == "as they are":
        # An item's style is its largest dimension.
        style = vectors[[point.item + 1 for point in points]].argmax(axis=1)
        distance = np.linalg.norm(places[:, None] - places, axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (style[distance.argmin(axis=1)] == style).mean() > 0.8


def test_the_log_says_beforehand_how_many_items_the_map_and_the_neighbours_take(
    inputs: ReportInputs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(items, "MAX_MAP_ITEMS", 20)
    assert len(items.embedding_map(inputs.dataset, inputs.vectors.fused)) == 20
    items.neighbour_lists(inputs.dataset.items, inputs.images, inputs.vectors)
    assert caplog.messages == [
        f"report: placing 20 of {N_ITEMS - 1} items with a vector on the map by t-SNE, 500 "
        "iterations over all pairs of them",
        f"report: comparing at most 5 items with each of {N_ITEMS} to find their neighbours, by "
        "vectors of text, fusion",
    ]


def test_covers_shrink_until_they_fit_and_broken_ones_are_left_out(
    inputs: ReportInputs, tmp_path: Path
) -> None:
    shown = set(range(N_ITEMS))
    table = inputs.dataset.items
    covers = items.item_covers(table, inputs.images, shown, max_bytes=10**6)
    assert set(covers) == {n for n in range(0, N_ITEMS, 3) if table.ids[n] != 4}
    total = sum(map(len, covers.values()))
    smaller = items.item_covers(table, inputs.images, shown, max_bytes=total // 2)
    assert set(smaller) == set(covers)
    assert sum(map(len, smaller.values())) <= total // 2
    assert items.item_covers(table, inputs.images, shown, max_bytes=100) == {}
    assert items.item_covers(table, None, shown, max_bytes=10**6) == {}
    assert items.item_covers(table, index_images(tmp_path), shown, max_bytes=10**6) == {}


def test_a_contest_is_compared_by_slice(inputs: ReportInputs) -> None:
    whole = PairedAuc("all rows", 1500, 0.81, 0.8, 0.01, 0.002, 0.0067)
    contest = {
        "challenger": inputs.version,
        "champion": "other",
        "promoted": False,
        "headline": "rejected: <b>too cold</b>",
        "problems": ["one", "two"],
        "comparison": dataclasses.asdict(ModelComparison(whole, None, (), (), 0.01)),
    }
    found = build_report(dataclasses.replace(inputs, contest=contest, champion="other")).html
    assert "Rejected: &lt;b&gt;too cold&lt;/b&gt;" in found
    expected = ["all rows", "1,500", "champion", "0.8000", "0.8100", "+0.0100", "+0.0067"]
    assert expected in Page(found).rows
    assert "<dd>not the champion</dd>" in found


def test_a_report_without_covers_titles_vectors_or_calibration_says_so(
    inputs: ReportInputs,
) -> None:
    fused = inputs.vectors.fused
    absent = dataclasses.replace(
        fused, present=np.zeros(len(fused.item_id), bool), vectors=np.zeros_like(fused.vectors)
    )
    model = dataclasses.replace(inputs.model, evaluation={}, baselines={})
    vectors = dataclasses.replace(inputs.vectors, fused=absent, text=None)
    found = build_report(
        dataclasses.replace(inputs, model=model, images=None, vectors=vectors)
    ).html
    for sentence in (
        "Fewer than three items have a vector, so there is no map.",
        "No item has a vector.",
        "The model file has no calibration.",
        "The model file has no trivial baselines.",
        "This version has taken part in no contest yet",
    ):
        assert sentence in found
    payload = re.search(r'id="report-data">(.*?)</script>', found)
    assert payload is not None
    assert json.loads(payload[1])["covers"] == {}


def test_a_model_of_other_data_is_refused(inputs: ReportInputs) -> None:
    other = dataclasses.replace(inputs.dataset, fingerprint="other")
    with pytest.raises(ReportError, match="train_dataset has changed since it was trained"):
        dataclasses.replace(inputs, dataset=other)

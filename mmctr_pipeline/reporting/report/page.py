"""The report of a model: one HTML page that needs no network, and a summary in Markdown."""

import base64
import dataclasses
import functools
import hashlib
import io
import json
import logging
import re
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from mmctr_pipeline.baselines import NAMES, baseline_scores
from mmctr_pipeline.files.markdown import escaped
from mmctr_pipeline.files.markdown import table as markdown_table
from mmctr_pipeline.reporting.plots import small_plot
from mmctr_pipeline.reporting.report import charts, items, quality, tables
from mmctr_pipeline.reporting.report.inputs import ReportInputs

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 3_000_000
_MARGIN = 20_000
_BUNDLE = "window.vegaEmbed = vegaEmbed;"
"""Entry point of the bundle: it makes `vegaEmbed` available to the page."""
_ADDRESS = re.compile(r"https://[^\s\"'`)]+")
"""Addresses in the bundle: links to an online editor and to schemas, all unused here."""
_PICTURES = {"slices": "AUC by slice", "reliability": "share of clicks by probability"}
"""The charts that the metadata of the asset shows, with their captions."""
_PICTURE_WIDTH = 480


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The report of the model `version`.

    `html` is the page. `summary` has the main figures as Markdown, `pictures` some charts as PNG
    of at most 50 KB by caption.
    """

    version: str
    html: str
    summary: str
    pictures: dict[str, bytes]


def build_report(inputs: ReportInputs) -> ModelReport:
    """Measure the model and draw its report, in seconds; the page has at most 3 MB."""
    dataset, scores, label = inputs.dataset, inputs.valid_scores, inputs.dataset.valid.label
    assert label is not None
    logger.info(f"report: measuring {len(label):,} valid rows, also with the trivial baselines")
    trivial = baseline_scores(dataset, dataset.valid, inputs.vectors.text)
    slices = quality.auc_by_slice(dataset, scores, trivial)
    shown = _shown_items(inputs)
    logger.info("report: drawing charts")
    drawn = _charts(inputs, slices, trivial.scores, shown["map"])
    context = {
        **shown,
        "inputs": inputs,
        "charts": drawn,
        "specs": {name: _compiled(chart) for name, chart in drawn.items()},
        "sections": _tables(inputs, slices),
        "headline": tables.headline(inputs),
        "remarks": tables.remarks(inputs.model),
        "facts": tables.data_sentences(dataset),
        "is_test_sampled": len(inputs.test_scores) < len(dataset.test),
    }
    page = _page(inputs, context)
    logger.info(f"report: {len(page.encode()) / 1e6:.1f} MB")
    summary = _summary(context["headline"], slices)
    pictures = {caption: _png(drawn[name]) for name, caption in _PICTURES.items() if name in drawn}
    return ModelReport(inputs.version, page, summary, pictures)


def _shown_items(inputs: ReportInputs) -> dict[str, Any]:
    right, wrong = items.confident_predictions(inputs.dataset, inputs.valid_scores)
    return {
        "map": items.embedding_map(inputs.dataset, inputs.vectors.fused),
        "neighbours": items.neighbour_lists(inputs.dataset.items, inputs.images, inputs.vectors),
        "predictions": {"right": right, "wrong": wrong},
    }


def _charts(
    inputs: ReportInputs,
    slices: list[quality.SliceAuc],
    trivial: dict[str, np.ndarray],
    points: list[items.MapPoint],
) -> dict[str, charts.Chart]:
    label = inputs.dataset.valid.label
    assert label is not None
    best = max(trivial, key=lambda key: slices[0].baselines.get(key, 0.0), default="")
    groups = quality.score_groups(label, inputs.valid_scores, inputs.test_scores)
    bins = inputs.model.evaluation.get("calibration", {}).get("bins", [])
    return {
        **charts.training_charts(inputs.model.history),
        "roc": charts.roc_chart(
            quality.roc_curve(label, inputs.valid_scores),
            quality.roc_curve(label, trivial[best]) if best else [],
            NAMES.get(best, ""),
        ),
        **({"reliability": charts.reliability_chart(bins)} if bins else {}),
        "slices": charts.slice_chart(slices),
        "scores": charts.score_chart(quality.histogram(groups)),
        **({"map": charts.map_chart(points)} if points else {}),
    }


def _tables(inputs: ReportInputs, slices: list[quality.SliceAuc]) -> dict[str, tables.Table]:
    model, dataset, label = inputs.model, inputs.dataset, inputs.dataset.valid.label
    assert label is not None
    groups = quality.score_groups(label, inputs.valid_scores, inputs.test_scores)
    bins = model.evaluation.get("calibration", {}).get("bins", [])
    comparison = inputs.contest["comparison"] if inputs.contest else None
    versions = {**model.library_versions, **model.conditions}
    return {
        "baselines": tables.baseline_table(model),
        "epochs": tables.epoch_table(model.history),
        **({"calibration": tables.calibration_table(bins)} if bins else {}),
        "slices": tables.slice_table(slices),
        "scores": tables.score_table(groups),
        "data": tables.data_table(dataset),
        "catalogue": tables.catalogue_table(dataset, inputs.vectors),
        **({"contest": tables.contest_table(comparison)} if comparison else {}),
        "identities": tables.pairs_table("Origin", "input", tables.identities(model)),
        "configuration": tables.pairs_table("Configuration", "setting", model.resolved_config),
        "versions": tables.pairs_table("Versions and conditions", "name", versions),
    }


def _page(inputs: ReportInputs, context: dict[str, Any]) -> str:
    """Render the page with covers as large as there is room for."""
    near = [found.items for each in context["neighbours"].values() for found in each]
    predictions = [p for each in context["predictions"].values() for p in each]
    with_cover = {point.item for point in context["map"]} | set(context["neighbours"])
    with_cover |= {item for each in near for item, _ in each} | {p.item for p in predictions}
    in_histories = {item for p in predictions for item in p.history}
    table = inputs.dataset.items
    context = {**context, "titles": items.item_titles(table, with_cover | in_histories)}
    largest = _rendered(context, dict.fromkeys(with_cover, ""))
    room = MAX_PAGE_BYTES - _MARGIN - len(largest.encode())
    logger.info(f"report: reading up to {len(with_cover):,} covers")
    covers = items.item_covers(table, inputs.images, with_cover, room)
    return _rendered(context, covers)


def _rendered(context: dict[str, Any], covers: dict[items.Item, str]) -> str:
    import jinja2
    from markupsafe import Markup

    scripts = [_vega_bundle(), _file("report.js")]
    payload = {"charts": context["specs"], "covers": covers}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("report.html.j2")).render(
        **context,
        covers=covers,
        style=Markup(_file("report.css")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_hash(script) for script in scripts],
        payload=Markup(_json_in_html(payload)),
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the source by which a content security policy allows this script alone."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _json_in_html(value: Any) -> str:
    """Return JSON that no text in it can end the script element around."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


@functools.cache
def _vega_bundle() -> str:
    """Return Vega as a script for an HTML page; bundling takes a few seconds."""
    import vl_convert

    bundle = _ADDRESS.sub("", vl_convert.javascript_bundle(_BUNDLE).replace("\r\n", "\n"))
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _compiled(chart: charts.Chart) -> dict[str, Any]:
    """Return the chart as a Vega specification."""
    import vl_convert

    compiled = vl_convert.vegalite_to_vega(chart.spec)
    del compiled["$schema"]
    return compiled


def _png(chart: charts.Chart) -> bytes:
    """Draw a chart as a small picture on white."""
    import vl_convert

    spec = {**chart.spec, "width": _PICTURE_WIDTH, "background": "white"}
    spec = json.loads(json.dumps(spec).replace('"currentColor"', '"#202020"'))
    with Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=1.25))) as drawn:
        return small_plot(drawn)


def _summary(headline: dict[str, str], slices: list[quality.SliceAuc]) -> str:
    lines = [f"- {name}: {escaped(value)}" for name, value in headline.items()]
    table = tables.slice_table(slices)
    alignment = "".join("l" if n in table.text else "r" for n in range(len(table.headers)))
    return "\n".join(lines) + "\n\n" + markdown_table(table.headers, table.rows, alignment)

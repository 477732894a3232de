"""The charts of a report as Vega-Lite specifications, drawn by Altair.

Text and axes have the colour `currentColor`, so the page decides it, also in dark mode.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmctr_pipeline.baselines import NAMES
from mmctr_pipeline.reporting.intervals import wilson_interval
from mmctr_pipeline.reporting.report.items import MapPoint
from mmctr_pipeline.reporting.report.quality import SliceAuc

if TYPE_CHECKING:  # takes a second to import
    import altair as alt

COLOURS = ("#3f7fd9", "#c2690c", "#0f9467", "#a855c7", "#76808f")
"""Colours of series; each has a contrast of at least 3:1 to white and to the dark background."""

_MODEL, _GREY = COLOURS[0], COLOURS[4]
_HEIGHT, _SQUARE_HEIGHT, _ROW_HEIGHT = 240, 320, 30
_MAP_HEIGHT = 420
_TIMES = ("cold: not in train", "1 to 10 times in train", "11 to 100 times", "over 100 times")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification, and what it shows, in words."""

    spec: dict[str, Any]
    description: str


def training_charts(history: Mapping[str, Any]) -> dict[str, Chart]:
    """Return the losses and the AUC by epoch, with the best epoch marked.

    `history` is that of a model file (`TrainingHistory.to_mapping`).
    """
    series: dict[str, list[tuple[str, str]]] = {"loss": [("train loss", "train_loss")], "auc": []}
    for name in history["epochs"][0]["metrics"]:
        kind = "loss" if "loss" in name else "auc"
        series[kind].append((name.replace("_", " ").replace("auc", "AUC"), name))
    charts = {}
    for kind, names in series.items():
        if names:
            title = names[0][0] if len(names) == 1 else {"loss": "loss in nats", "auc": "AUC"}[kind]
            charts[kind] = _by_epoch(history, names, title)
    return charts


def _by_epoch(history: Mapping[str, Any], names: Sequence[tuple[str, str]], title: str) -> Chart:
    import altair as alt

    best = history["best_epoch"]
    rows = [
        {"epoch": record["epoch"], "value": {**record, **record["metrics"]}[key], "series": name}
        for name, key in names
        for record in history["epochs"]
    ]
    rows = [row for row in rows if np.isfinite(row["value"])]
    lines = (
        _chart(rows)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "epoch:Q",
                axis=alt.Axis(tickMinStep=1, format="~g"),
                scale=alt.Scale(zero=False, nice=False, padding=20),
            ),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=_colour("series", [name for name, _ in names]),
            tooltip=["series:N", "epoch:Q", alt.Tooltip("value:Q", format=".4f")],
        )
    )
    mark = _chart([{"epoch": best, "text": "best epoch"}]).encode(x="epoch:Q")
    rule = mark.mark_rule(strokeDash=[4, 3], color="currentColor")
    text = mark.mark_text(align="center", baseline="bottom", color="currentColor", y=-4)
    text = text.encode(text="text:N")
    shown = " and ".join(name for name, _ in names)
    return _finished(rule + lines + text, f"{shown} by epoch; epoch {best:g} is the best", _HEIGHT)


def roc_chart(
    points: Sequence[Mapping[str, float]],
    baseline: Sequence[Mapping[str, float]],
    baseline_name: str,
) -> Chart:
    """Return the ROC curve of the model, with its interval, and that of the best baseline."""
    import altair as alt

    names = ["model", *([baseline_name] if baseline else [])]
    rows = [{**point, "curve": "model"} for point in points]
    rows += [{**point, "curve": baseline_name} for point in baseline]
    x = alt.X("fpr:Q", title="share of the rows without a click", axis=_shares())
    band = _chart(points).mark_area(opacity=0.2, color=_MODEL).encode(x=x, y="low:Q", y2="high:Q")
    y = alt.Y("tpr:Q", title="share of the clicks", axis=_shares())
    colour = _colour("curve", names)
    lines = _chart(rows).mark_line().encode(x=x, y=y, color=colour, order="fpr:Q")
    description = "ROC curve: share of the clicks above a threshold by share of the other rows"
    return _finished(_diagonal("fpr", "tpr") + band + lines, description, _SQUARE_HEIGHT)


def reliability_chart(bins: Sequence[Mapping[str, float]]) -> Chart:
    """Return the share of clicks by predicted probability, with 95 % intervals (Wilson)."""
    import altair as alt

    share = np.array([each["share_positive"] for each in bins], np.float64)
    low, high = wilson_interval(share, np.array([each["n_rows"] for each in bins]))
    columns = zip(bins, low.tolist(), high.tolist(), strict=True)
    rows = [
        {"predicted": b["mean_probability"], "share": b["share_positive"], "low": lo, "high": hi}
        for b, lo, hi in columns
    ]
    base = _chart(rows).encode(
        x=alt.X("predicted:Q", title="predicted probability", axis=_shares())
    )
    rules = base.mark_rule(color=_MODEL, strokeWidth=2).encode(y="low:Q", y2="high:Q")
    points = base.mark_line(color=_MODEL, point=alt.OverlayMarkDef(color=_MODEL, size=40)).encode(
        y=alt.Y("share:Q", title="share of clicks", axis=_shares()),
        tooltip=[alt.Tooltip(f"{name}:Q", format=".3f") for name in rows[0]] if rows else [],
    )
    description = "Share of clicks by predicted probability; a calibrated model is on the diagonal"
    return _finished(_diagonal("predicted", "share") + rules + points, description, _SQUARE_HEIGHT)


def slice_chart(slices: Sequence[SliceAuc]) -> Chart:
    """Return the AUC of the model, with its 95 % interval, and of the baselines by slice."""
    import altair as alt

    shown = [each for each in slices if each.auc is not None]
    rows: list[dict[str, Any]] = []
    intervals: list[dict[str, Any]] = []
    for each in shown:
        assert each.auc is not None
        intervals.append({"slice": each.name, "low": each.auc.low, "high": each.auc.high})
        rows.append({"slice": each.name, "AUC": each.auc.auc, "scores": "model"})
        for key, value in each.baselines.items():
            rows.append({"slice": each.name, "AUC": value, "scores": NAMES[key]})
    names: list[str] = list(dict.fromkeys(row["scores"] for row in rows))
    y = alt.Y(
        "slice:N", title=None, sort=[each.name for each in shown], axis=alt.Axis(labelLimit=190)
    )
    axis = alt.Axis(tickCount=8)
    x = alt.X("AUC:Q", title="AUC", scale=alt.Scale(zero=False), axis=axis)
    lines = (
        _chart(intervals)
        .mark_rule(color=_MODEL, strokeWidth=3, opacity=0.6)
        .encode(y=y, x=alt.X("low:Q"), x2="high:Q")
    )
    colour = _colour("scores", names)
    points = (
        _chart(rows)
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            y=y,
            x=x,
            color=colour,
            shape=alt.Shape("scores:N", sort=names, legend=None),
            tooltip=["slice:N", "scores:N", alt.Tooltip("AUC:Q", format=".4f")],
        )
    )
    description = "AUC by slice of the valid rows: model with interval, and trivial baselines"
    return _finished(lines + points, description, 60 + _ROW_HEIGHT * len(shown))


def score_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the distributions of scores, given as the result of `quality.histogram`."""
    import altair as alt

    names = list(dict.fromkeys(row["rows"] for row in rows))
    chart = (
        _chart(rows)
        .mark_line(interpolate="step", clip=True)
        .encode(
            x=alt.X("probability:Q", title="predicted probability", scale=alt.Scale(nice=False)),
            y=alt.Y("share:Q", title="share of the rows", axis=_shares()),
            color=_colour("rows", names),
            strokeDash=alt.StrokeDash("rows:N", sort=names, legend=None),
        )
    )
    return _finished(chart, "Distribution of the predicted probabilities", _HEIGHT)


def map_chart(points: Sequence[MapPoint]) -> Chart:
    """Return the map of items; a point's field `item` is the item to show for it."""
    import altair as alt

    def group(times: int) -> str:
        return _TIMES[int(np.searchsorted((0, 10, 100), times))]

    rows = [
        {"x": each.x, "y": each.y, "times in train": group(each.times), "item": each.item}
        for each in points
    ]
    names = [name for name in _TIMES if any(row["times in train"] == name for row in rows)]
    scale = alt.Scale(zero=False, padding=10)
    chart = (
        alt.Chart(alt.InlineData(values=rows, name="items"))
        .mark_circle(size=50, opacity=0.8, aria=False)
        .encode(
            x=alt.X("x:Q", axis=None, scale=scale),
            y=alt.Y("y:Q", axis=None, scale=scale),
            color=_colour("times in train", names),
        )
    )
    description = f"Map of {len(rows)} items by their fused vectors; close items are similar"
    return _finished(chart, description, _MAP_HEIGHT)


def _chart(rows: Sequence[Mapping[str, Any]]) -> "alt.Chart":
    import altair as alt

    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def _colour(field: str, names: Sequence[str]) -> "alt.Color":
    import altair as alt

    scale = alt.Scale(domain=list(names), range=[*COLOURS[: len(names)]])
    return alt.Color(
        f"{field}:N",
        scale=scale,
        legend=None if len(names) < 2 else alt.Legend(title=None, orient="top", columns=2),
    )


def _shares() -> "alt.Axis":
    import altair as alt

    return alt.Axis(format="%")


def _diagonal(x: str, y: str) -> "alt.Chart":
    rows = [{x: 0, y: 0}, {x: 1, y: 1}]
    return _chart(rows).mark_line(color=_GREY, strokeDash=[4, 3]).encode(x=f"{x}:Q", y=f"{y}:Q")


def _finished(chart: Any, description: str, height: int) -> Chart:
    """Return a chart of full width; it names no address, unlike Altair's default."""
    text = {"labelColor": "currentColor", "titleColor": "currentColor"}
    spec = (
        chart.properties(width="container", height=height, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            **text,
            domainColor="currentColor",
            tickColor="currentColor",
            gridColor="currentColor",
            gridOpacity=0.15,
            titleFontWeight="normal",
            labelFontSize=12,
            titleFontSize=12,
        )
        .configure_legend(**text, labelFontSize=12, labelLimit=0, symbolStrokeWidth=3)
        .to_dict()
    )
    del spec["$schema"]
    return Chart({**spec, "autosize": {"type": "fit-x", "contains": "padding"}}, description)

"""Small pictures as PNG bytes, for the metadata of assets: at most 50 KB each."""

import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image

from mmctr_pipeline.reporting.intervals import wilson_interval

_HEIGHT, _SQUARE_HEIGHT = 3.0, 4.4
"""Heights of plots in inches; all plots are 5.6 inches wide."""
_DOTS_PER_INCH = 100
_FIRST, _SECOND = "tab:blue", "tab:orange"
_COLOURS = (_FIRST, _SECOND, "tab:green", "tab:red", "tab:purple", "tab:brown")
_MAP_POINTS = 4_000


def training_curve(history: Mapping[str, Any]) -> bytes:
    """Plot the mean train loss and the deciding metric by epoch, and mark the best epoch.

    `history` is that of a training run as plain values (`TrainingHistory.to_mapping`).
    """
    records, best_epoch = history["epochs"], history["best_epoch"]
    metric = history["metric"].replace("_", " ").replace("auc", "AUC")
    epoch = [record["epoch"] for record in records]
    held_out = [record["metrics"][history["metric"]] for record in records]
    train_loss = [record["train_loss"] for record in records]
    best = held_out[epoch.index(best_epoch)]
    figure, axes = _plot("epoch", metric)
    axes.axvline(best_epoch, color="grey", linestyle=":", linewidth=1)
    label = f"{metric} (best {best:.4f}, epoch {best_epoch:g})"
    axes.plot(epoch, held_out, color=_FIRST, marker=".", label=label)
    losses = axes.twinx()
    losses.set_ylabel("train loss")
    losses.plot(epoch, train_loss, color=_SECOND, marker=".", label="train loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return _png(figure)


def gradient_curve(history: Mapping[str, Any]) -> bytes:
    """Plot the gradient norm before clipping, mean and maximum, and the learning rate by epoch.

    `history` is as for `training_curve`. Histories of old files have no norms.
    """
    records = [record for record in history["epochs"] if record.get("gradient_norm") is not None]
    epoch = [record["epoch"] for record in records]
    figure, axes = _plot("epoch", "gradient norm")
    for name, style, label in (
        ("gradient_norm", "-", "gradient norm, mean"),
        ("largest_gradient_norm", ":", "largest"),
    ):
        norms = [record[name] for record in records]
        axes.plot(epoch, norms, color=_FIRST, linestyle=style, marker=".", label=label)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(bottom=0)
    rates = axes.twinx()
    rates.set_ylabel("learning rate")
    rate = [record["learning_rate"] for record in records]
    rates.plot(epoch, rate, color=_SECOND, marker=".", label="learning rate")
    rates.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    return _png(figure)


def reliability(calibration: Mapping[str, Any]) -> bytes:
    """Plot the share of clicks by predicted probability, bin by bin, with 95 % intervals.

    `calibration` is that of a metrics report as plain values (`MetricsReport.to_mapping`); in old
    files it has no limit. A calibrated model has its points on the diagonal.
    """
    bins = calibration["bins"]
    predicted, share, n_rows = (
        np.array([one_bin[name] for one_bin in bins], dtype=np.float64)
        for name in ("mean_probability", "share_positive", "n_rows")
    )
    limit = f" (chance alone: up to {calibration['limit']:.4f})" if "limit" in calibration else ""
    title = (
        f"expected calibration error {calibration['error']:.4f}{limit}, {len(bins)} bins of at "
        f"least {int(n_rows.min()):,} rows"
    )
    figure, axes = _plot("predicted probability", "share of clicks", _SQUARE_HEIGHT, title)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axes.vlines(predicted, *wilson_interval(share, n_rows), color=_FIRST)
    axes.plot(predicted, share, color=_FIRST, marker=".", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return _png(figure)


def pca_spectrum(explained_variance_ratio: np.ndarray) -> bytes:
    """Plot each component's share of the variance, `(K,)`, and the cumulative sum."""
    component = np.arange(1, len(explained_variance_ratio) + 1)
    cumulative = np.cumsum(explained_variance_ratio)
    figure, axes = _plot("component", "share of the variance")
    axes.fill_between(component, explained_variance_ratio, step="mid", color=_FIRST)
    axes.yaxis.label.set_color(_FIRST)
    axes.set_yscale("log")
    total = axes.twinx()
    total.set_ylabel(f"sum (all: {cumulative[-1] if len(cumulative) else 0:.1%})", color=_SECOND)
    total.plot(component, cumulative, color=_SECOND)
    total.set_ylim(0, 1.02)
    return _png(figure)


def norm_histogram(norms: Mapping[str, np.ndarray]) -> bytes:
    """Plot the distribution of vector lengths: an outline for each name and its `(N,)` norms."""
    figure, axes = _plot("length of the vector", "items")
    for name, values in norms.items():
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        # Normalised vectors differ only in the last digits, which no histogram can show.
        if high - low < 1e-3 * max(abs(high), 1e-12):
            low, high = low - 0.05 * max(abs(low), 1e-3), high + 0.05 * max(abs(high), 1e-3)
        # With an odd number of bins, equal lengths fall into the middle of a bin, not on an edge.
        axes.hist(finite, bins=41, range=(low, high), histtype="step", label=name)
    if norms:
        axes.legend(loc="upper right")
    return _png(figure)


def title_lengths(n_tokens: np.ndarray, longest: int) -> bytes:
    """Plot the distribution of title lengths in tokens, `(N,)` integers; counts on a log scale.

    The model cuts titles at `longest` tokens. The heading of the plot gives the share of longer
    titles; if there are any, a line marks the limit. Titles of more than one and a half times the
    limit are counted in the last bar.
    """
    n_tokens = np.asarray(n_tokens)
    most, n_cut = int(n_tokens.max(initial=0)), int((n_tokens > longest).sum())
    end = min(most, longest * 3 // 2)
    step = max(1, -(-end // 64))
    note = f" (last bar: {end - step + 1} and more)" if most > end else ""
    title = (
        f"{n_cut / max(len(n_tokens), 1):.2%} of {len(n_tokens):,} titles exceed the limit of "
        f"{longest:,} tokens; the longest has {most:,}"
    )
    figure, axes = _plot(f"tokens of the title{note}", "titles", title=title)
    if len(n_tokens):
        edges = np.arange(end + 0.5, -0.5 - step, -step)[::-1]
        axes.hist(np.minimum(n_tokens, end), bins=list(edges), color=_FIRST, log=True)
        # The axis begins below 1, so that the bar of a single title is visible.
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if n_cut:
        axes.axvline(longest + 0.5, color=_SECOND, linestyle="--")
    return _png(figure)


def vector_map(vectors: np.ndarray, present: np.ndarray, kinds: Mapping[str, np.ndarray]) -> bytes:
    """Plot a map of the present items: the first two principal components of their vectors.

    Components and points come from at most 4,000 items, the same in each call. Points far from all
    others are left out, as they would leave too little room for the rest; the heading of the plot
    gives their number. Raises `ValueError` if the lengths differ.

    Parameters
    ----------
    vectors
        `(N, D) float32`.
    present
        `(N,) bool`, True for the items to draw.
    kinds
        For the name of each kind ("title only"), `(N,) bool`, True for its items. Each kind has a
        colour. No item may be of two kinds; items of no kind are left out.
    """
    for name, mask in {"present": present, **kinds}.items():
        if mask.shape != (len(vectors),):
            raise ValueError(f"{len(vectors)} vectors but the mask {name!r} is {mask.shape}")
    usable = present & np.isfinite(vectors).all(axis=1)
    rows = np.flatnonzero(usable & np.any([*kinds.values(), np.zeros(len(present), bool)], axis=0))
    if len(rows) > _MAP_POINTS:
        rows = np.random.default_rng(0).choice(rows, _MAP_POINTS, replace=False)
    points, shares = _first_two_components(vectors[rows])
    limits = _limits(points)
    inside = np.all((points >= limits[0]) & (points <= limits[1]), axis=1)
    n_outside = int((~inside).sum())
    figure, axes = _plot(
        f"first principal component ({shares[0]:.0%})",
        f"second ({shares[1]:.0%})",
        _SQUARE_HEIGHT,
        f"{len(rows):,} of {int(usable.sum()):,} items drawn"
        + (f"; {n_outside:,} of these are off the map" if n_outside else ""),
    )
    for (name, mask), colour in zip(kinds.items(), itertools.cycle(_COLOURS), strict=False):
        n_items = int((mask & usable).sum())
        x, y = points[mask[rows] & inside].T
        axes.scatter(
            x,
            y,
            s=6,
            color=colour,
            alpha=0.7,
            linewidths=0,
            label=f"{name} ({n_items:,})",
            # The rarest kind is on top.
            zorder=2 + 1 / (1 + n_items),
        )
    axes.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    if kinds:
        figure.legend(loc="outside upper center", ncols=3, fontsize="small", markerscale=2.5)
    return _png(figure)


def _first_two_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates `(N, 2) float64` and shares of the variance `(2,)`; zeros if N < 2."""
    if len(vectors) < 2 or vectors.shape[1] == 0:
        return np.zeros((len(vectors), 2)), np.zeros(2)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    first_two = directions[:, ::-1][:, :2]
    # The sign follows the largest entry, so that maps of different runs are not mirror images.
    largest = np.take_along_axis(first_two, np.abs(first_two).argmax(axis=0)[None], axis=0)
    points = centred @ (first_two * np.where(largest < 0, -1, 1))
    shares = np.maximum(variances[::-1][:2], 0) / max(variances.sum(), np.finfo(float).tiny)
    missing = 2 - points.shape[1]
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


def _limits(points: np.ndarray) -> np.ndarray:
    """Return the lower and the upper corner of the map, `(2, 2)`: row by corner, column by axis."""
    if len(points) == 0:
        return np.array([[-1.0, -1.0], [1.0, 1.0]])
    low, high = np.percentile(points, (1, 99), axis=0)
    reach = 0.25 * (high - low)
    low = np.maximum(points.min(axis=0), low - reach)
    high = np.minimum(points.max(axis=0), high + reach)
    middle, half = (low + high) / 2, 0.53 * (high - low)
    # Both axes have the same scale, so a map that is much longer than wide would be a line.
    half = np.maximum(half, max(0.45 * half.max(), 1e-6))
    return np.stack([middle - half, middle + half])


def small_plot(drawn: Image.Image) -> bytes:
    """Return a drawn plot as PNG of at most 50 KB."""
    # A palette makes a plot a third as large without a visible difference.
    return small_picture(_with_colours(drawn.convert("RGB"), 256))


def small_picture(picture: Image.Image, max_bytes: int = 50_000) -> bytes:
    """Return the picture as PNG of at most `max_bytes`.

    A picture that is too large gets fewer colours, and shrinks only if that is not enough. Raises
    `ValueError` if no PNG is that small.
    """
    content = _encoded(picture)
    if len(content) <= max_bytes:
        return content
    picture = picture.convert("RGB")
    while max(picture.size) > 1:
        for n_colours in (256, 128, 64, 32, 16):
            content = _encoded(_with_colours(picture, n_colours))
            if len(content) <= max_bytes:
                return content
        factor = min(0.9, (max_bytes / len(content)) ** 0.5)
        width, height = (max(1, int(side * factor)) for side in picture.size)
        picture = picture.resize((width, height))
    raise ValueError(f"no PNG has at most {max_bytes} bytes; allow 1,000 or more")


def _with_colours(picture: Image.Image, n_colours: int) -> Image.Image:
    # Not median cut, which would give most colours to the largest areas and merge rare colours. No
    # dithering, as PNG compresses noise badly.
    return picture.quantize(n_colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _plot(
    x_label: str, y_label: str, height: float = _HEIGHT, title: str = ""
) -> tuple[Figure, Axes]:
    """Return a new figure and its axes, in the style of all plots."""
    figure = Figure(figsize=(5.6, height), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Figure) -> bytes:
    # Without pyplot, which keeps global state and chooses a backend when it is imported.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return small_plot(Image.fromarray(np.asarray(canvas.buffer_rgba())))

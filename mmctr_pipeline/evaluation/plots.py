"""Small plots as PNG bytes, for the metadata of assets: at most 40 KB each."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_SIZE_INCHES = (5.2, 2.8)
_DOTS_PER_INCH = 80
_FIRST, _SECOND = "tab:blue", "tab:orange"


def training_curve(
    train_loss: Sequence[float], valid_auc: Sequence[float], best_epoch: int | None = None
) -> bytes:
    """Plot the mean train loss and the validation AUC of each epoch; epochs count from 1.

    `best_epoch` gets a mark. Raises `ValueError` where the two are not of one length.
    """
    if len(train_loss) != len(valid_auc):
        raise ValueError(f"{len(train_loss)} losses but {len(valid_auc)} AUCs")
    figure, axes = _new("epoch", "validation AUC")
    epoch = np.arange(1, len(valid_auc) + 1)
    label = "validation AUC"
    if best_epoch is not None:
        label += f" (best {valid_auc[best_epoch - 1]:.4f}, epoch {best_epoch})"
        axes.axvline(best_epoch, color="grey", linestyle=":", linewidth=1)
    axes.plot(epoch, valid_auc, color=_FIRST, marker=".", label=label)
    losses = axes.twinx()
    losses.plot(epoch, train_loss, color=_SECOND, marker=".", label="train loss")
    losses.set_ylabel("train loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return _png(figure)


def pca_spectrum(explained_variance_ratio: np.ndarray) -> bytes:
    """Plot each component's share of the variance, `(K,)`, and the sum up to each."""
    figure, axes = _new("component", "share of the variance")
    component = np.arange(1, len(explained_variance_ratio) + 1)
    cumulative = np.cumsum(explained_variance_ratio)
    axes.fill_between(component, explained_variance_ratio, step="mid", color=_FIRST)
    axes.yaxis.label.set_color(_FIRST)
    axes.set_yscale("log")
    total = axes.twinx()
    total.plot(component, cumulative, color=_SECOND)
    total.set_ylim(0, 1.02)
    total.yaxis.label.set_color(_SECOND)
    total.set_ylabel(f"sum (all: {cumulative[-1] if len(cumulative) else 0:.1%})")
    return _png(figure)


def norm_histogram(norms: Mapping[str, np.ndarray]) -> bytes:
    """Plot how the lengths of vectors are spread, one outline per name; `(N,)` arrays."""
    figure, axes = _new("length of the vector", "items")
    for name, values in norms.items():
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        # Normalised vectors differ in the last digits alone, in which no histogram is of use.
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        if high - low < 1e-3 * max(abs(high), 1e-12):
            low, high = low - 0.05 * max(abs(low), 1e-3), high + 0.05 * max(abs(high), 1e-3)
        axes.hist(finite, bins=40, range=(low, high), histtype="step", label=name)
    if norms:
        axes.legend(loc="upper right")
    return _png(figure)


def _new(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    # The object API alone: pyplot keeps global state and picks a backend at import.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

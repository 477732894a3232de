"""The tables and sentences of a report, as plain text; the page escapes them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmctr_pipeline.baselines import NAMES
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.facts import data_facts, unseen_rows
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.registry.card import baseline_rows, flattened
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.reporting.report.inputs import ReportInputs
from mmctr_pipeline.reporting.report.quality import QUANTILES, SliceAuc

_LONGEST_CELL = 300


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column has the names of the rows, the other columns are numbers or text.

    `caption` says what it shows. Columns whose number is in `text` are aligned on the left.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: frozenset[int] = frozenset({0})


def headline(inputs: ReportInputs) -> dict[str, str]:
    """Return the main figures by name."""
    metrics = inputs.model.metrics
    interval = f"{metrics['valid_auc_low']:.4f} to {metrics['valid_auc_high']:.4f}"
    figures = {"AUC on the valid rows": f"{metrics['valid_auc']:.4f} ({interval})"}
    for name, key, limit in (
        ("Log-loss", "valid_log_loss", None),
        ("Calibration error", "valid_calibration_error", "valid_calibration_error_limit"),
    ):
        if key in metrics:
            chance = f" (chance alone: up to {metrics[limit]:.4f})" if limit in metrics else ""
            figures[name] = f"{metrics[key]:.4f}{chance}"
    sizes = [f"{len(split):,} {name}" for name, split in inputs.dataset.splits.items()]
    return {
        **figures,
        "Rows": ", ".join(sizes),
        "Status": "champion" if inputs.version == inputs.champion else "not the champion",
    }


def remarks(model: ModelFile) -> list[str]:
    """Return what limits the figures of a model, one sentence each."""
    found = [f"Likely cause of the low AUC: {cause}." for cause in model.likely_causes]
    if model.final_fit is not None:
        found.append(
            f"All figures are of {model.measured_run}. The weights in the model file were then "
            f"trained on these {model.final_fit['n_rows']:,} rows together, so no labelled row "
            "is left to measure them on."
        )
    absent = model.absent_baselines.items()
    found += [f"Undefined baseline: {NAMES.get(key, key)} ({why})." for key, why in absent]
    return found


def baseline_table(model: ModelFile) -> Table:
    """Return the AUC of each trivial baseline, and the model's difference from it."""
    headers = ["baseline", "AUC", "model minus this", "95 % lower bound"]
    return Table("Trivial baselines on the same valid rows", headers, baseline_rows(model))


def epoch_table(history: Mapping[str, Any]) -> Table:
    """Return losses, metrics and learning rate by epoch."""
    names = list(history["epochs"][0]["metrics"])
    rows = []
    for record in history["epochs"]:
        best = " (best)" if record["epoch"] == history["best_epoch"] else ""
        values = [record["train_loss"], *(record["metrics"][name] for name in names)]
        cells = [f"{value:.4f}" for value in values]
        rate, speed = f"{record['learning_rate']:.2g}", f"{record['rows_per_second']:,.0f}"
        rows.append([f"{record['epoch']:g}{best}", *cells, rate, speed])
    metrics = [name.replace("_", " ") for name in names]
    headers = ["epoch", "train loss", *metrics, "learning rate", "rows/s"]
    return Table("Training by epoch", headers, rows)


def calibration_table(bins: Sequence[Mapping[str, Any]]) -> Table:
    """Return the bins of the calibration."""
    rows = [
        [f"{each['mean_probability']:.4f}", f"{each['share_positive']:.4f}", f"{each['n_rows']:,}"]
        for each in bins
    ]
    return Table("Calibration by bin", ["predicted", "share of clicks", "rows"], rows)


def slice_table(slices: Sequence[SliceAuc]) -> Table:
    """Return the AUC by slice, with the baselines on the same rows."""
    keys = list(dict.fromkeys(key for each in slices for key in each.baselines))
    rows = []
    for each in slices:
        auc = [f"none: {'one class' if each.n_rows else 'no rows'}", ""]
        if each.auc is not None:
            auc = [f"{each.auc.auc:.4f}", f"{each.auc.low:.4f} to {each.auc.high:.4f}"]
        others = [f"{each.baselines[key]:.4f}" if key in each.baselines else "" for key in keys]
        rows.append([each.name, f"{each.n_rows:,}", f"{each.n_positive:,}", *auc, *others])
    names = [NAMES[key] for key in keys]
    headers = ["valid rows", "rows", "clicks", "AUC", "95 % interval", *names]
    return Table("AUC by slice; the last columns are the trivial baselines", headers, rows)


def score_table(groups: Mapping[str, np.ndarray]) -> Table:
    """Return quantiles of the scores of each group of rows."""
    rows = [
        [
            name,
            f"{len(scores):,}",
            f"{scores.mean():.3f}",
            *(f"{value:.3f}" for value in np.quantile(scores, QUANTILES)),
        ]
        for name, scores in groups.items()
    ]
    headers = ["rows of", "number", "mean", *(f"{share:.0%}" for share in QUANTILES)]
    return Table("Mean and quantiles of the predicted probabilities", headers, rows)


def contest_table(comparison: Mapping[str, Any]) -> Table:
    """Return the comparison with the champion by slice, from the record of the contest."""
    pairs = [("champion", each) for each in (comparison["whole"], *comparison["slices"])]
    if comparison["best"] is not None:
        pairs.append(("best ever promoted", comparison["best"]))
    rows = [
        [
            each["name"],
            f"{each['n_rows']:,}",
            other,
            f"{each['other']:.4f}",
            f"{each['challenger']:.4f}",
            f"{each['difference']:+.4f}",
            f"{each['low']:+.4f}",
        ]
        for other, each in pairs
    ]
    headers = ["rows", "number", "compared with", "its AUC", "this model", "difference", "low"]
    return Table("AUC of both models on the same valid rows", headers, rows, frozenset({0, 2}))


def data_sentences(dataset: CtrDataset) -> list[str]:
    """Return facts about the train and valid rows."""
    return [f"{each[0].upper()}{each[1:]}." for each in data_facts(dataset).sentences()]


def data_table(dataset: CtrDataset) -> Table:
    """Return counts of each split."""
    unseen = unseen_rows(dataset)
    columns = []
    for name, split in dataset.splits.items():
        lengths = dataset.histories.lengths[split.history]
        new = unseen.get(name, {})
        columns.append(
            [
                f"{len(split):,}",
                "" if split.label is None else f"{(split.label == 1).mean():.1%}",
                f"{len(np.unique(split.user_id)):,}",
                f"{len(np.unique(split.item_id)):,}",
                f"{lengths.mean():.1f}" if len(split) else "",
                f"{new['user_id']:,}" if new else "",
                f"{new['item_id']:,}" if new else "",
            ]
        )
    names = ["rows", "click rate", "users", "target items", "mean length of the history"]
    names += ["rows with a user that train lacks", "rows with a target that train lacks"]
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    return Table("Rows by split", ["", *dataset.splits], rows)


def catalogue_table(dataset: CtrDataset, vectors: ItemVectors) -> Table:
    """Return how many items there are, and how many have a vector of each kind."""
    n_items = len(dataset.items)
    rows = [["items", f"{n_items:,}", ""]]
    for name, table in vectors.tables.items():
        n_present = int(table.aligned_to(dataset.items.ids).present.sum())
        rows.append([f"with {name} vector", f"{n_present:,}", f"{n_present / n_items:.1%}"])
    return Table("Items", ["", "number", "share"], rows)


def pairs_table(caption: str, name: str, pairs: Mapping[str, Any]) -> Table:
    """Return names and values as a table; nested values become paths such as `training.seed`."""
    rows = [[key, _cell(value)] for key, value in flattened(pairs).items()]
    return Table(caption, [name, "value"], rows, frozenset({0, 1}))


def identities(model: ModelFile) -> dict[str, Any]:
    """Return what the model was made from."""
    return {
        "data fingerprint": model.data_fingerprint,
        **({"data until": model.data_day} if model.data_day else {}),
        **{f"{name} encoder": value for name, value in model.encoder_identities.items()},
        "transform": model.transform_identity,
        "calibrated": "yes" if model.calibration else "no",
        "weights of": model.warm_start or "this training alone",
        "parameters": f"{model.n_parameters:,}",
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"

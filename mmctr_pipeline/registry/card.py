"""The model card: quality, data and configuration of a saved model in Markdown.

It begins with the metadata that the Hugging Face Hub reads from a card, as YAML.
"""

import math
from collections.abc import Mapping
from typing import Any

from mmctr_pipeline.baselines import NAMES
from mmctr_pipeline.files.markdown import escaped, table
from mmctr_pipeline.registry.auc_gate import recorded_baselines
from mmctr_pipeline.registry.model_file import ModelFile

_TASK = "tabular-classification"
_HUB_METRICS = {
    "valid_auc": ("roc_auc", "AUC"),
    "valid_log_loss": ("log_loss", "log-loss"),
    "valid_calibration_error": ("ece", "expected calibration error"),
}
"""Type and name of each metric in the card's metadata, by its name in the model file."""


def model_card(model_file: ModelFile, version: str) -> str:
    """Return the card of `model_file` as Markdown."""
    metrics = model_file.metrics
    sections = [
        f"# {escaped(model_file.model_config['name'])}, version {version}",
        f"A click-through-rate model with {model_file.n_parameters:,} parameters, "
        f"trained {model_file.created_at} with preset {escaped(model_file.preset or '(none)')}. "
        "For a row of user, item, history, likes level and views level, it gives the probability "
        "of a click.",
        "## Quality",
        f"Validation AUC **{metrics['valid_auc']:.4f}**, 95 % interval "
        f"{metrics['valid_auc_low']:.4f} to {metrics['valid_auc_high']:.4f} (DeLong). The epoch "
        "was selected on the same valid rows.",
        *_baselines(model_file),
        *_final_fit(model_file),
        *_calibration(model_file),
        *(f"Likely cause of the low AUC: {_cell(each)}." for each in model_file.likely_causes),
        _pairs("metric", "value", metrics),
        *_details(model_file.evaluation),
        "## Data and vectors",
        _pairs(
            "input",
            "identity or size",
            {
                "data fingerprint": model_file.data_fingerprint,
                "vectors": model_file.vector_identity,
                **{f"{name} encoder": i for name, i in model_file.encoder_identities.items()},
                "transform": model_file.transform_identity,
                **{name.replace("_", " "): size for name, size in model_file.spec.items()},
            },
        ),
        "Scoring with vectors of another identity is refused. Ids that are not in the training "
        "rows share one embedding: a learned one if the setting unknown_rate is above 0, else the "
        "mean of the trained ones. An item with such an id still has its own vectors.",
        "## Training",
        epochs_table(model_file.history),
        "## Configuration",
        _pairs("setting", "value", flattened(model_file.resolved_config)),
        "## Versions",
        _pairs(
            "library or condition",
            "value",
            {**model_file.library_versions, **model_file.conditions},
        ),
    ]
    return "\n\n".join([f"---\n{_metadata(model_file)}\n---", *sections]) + "\n"


def _metadata(model_file: ModelFile) -> str:
    """Return tags and metrics as YAML, in the form of the Hugging Face Hub."""
    from huggingface_hub import EvalResult, ModelCardData

    name = str(model_file.model_config["name"])
    data = model_file.data_name or "unnamed click logs"
    results = [
        EvalResult(
            task_type=_TASK,
            task_name="Click-through-rate prediction",
            dataset_type=data.lower().replace(" ", "-"),
            dataset_name=data,
            dataset_split="validation",
            dataset_revision=model_file.data_fingerprint or None,
            metric_type=kind,
            metric_name=readable,
            metric_value=float(model_file.metrics[key]),
        )
        for key, (kind, readable) in _HUB_METRICS.items()
        if math.isfinite(model_file.metrics.get(key, math.nan))
    ]
    card = ModelCardData(
        model_name=name,
        eval_results=results or None,
        library_name="mmctr-pipeline",
        pipeline_tag=_TASK,
        tags=["click-through-rate", "recommendation", "multimodal", name],
    )
    return card.to_yaml()


def popularity_table(evaluation: Mapping[str, Any]) -> str:
    """Return the AUC by popularity of the target as a Markdown table.

    `evaluation` is that of a model file (`MetricsReport.to_mapping`).
    """
    rows = []
    for bucket in evaluation["by_popularity"]:
        interval, n_rows = bucket["auc"], bucket["n_rows"]
        least, most = bucket["least"], bucket["most"]
        auc = ["none", "the rows are of one class" if n_rows else "no rows"]
        if interval:
            auc = [f"{interval['auc']:.4f}", f"{interval['low']:.4f} to {interval['high']:.4f}"]
        times = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        rows.append([bucket["name"], times, f"{n_rows:,}", f"{bucket['n_positive']:,}", *auc])
    headers = ["target", "times in train", "rows", "clicks", "AUC", "95 % interval"]
    return table(headers, rows, "lrrrrl")


def baseline_rows(model_file: ModelFile) -> list[list[str]]:
    """Return name, AUC, difference and its lower bound of each trivial baseline, as text."""
    return [
        [
            NAMES.get(key, key),
            f"{baseline.auc:.4f}",
            f"{baseline.difference:+.4f}",
            f"{baseline.low:+.4f}",
        ]
        for key, baseline in recorded_baselines(model_file).items()
    ]


def _baselines(model_file: ModelFile) -> list[str]:
    """Return a table of the trivial baselines, and why the others are undefined."""
    rows = baseline_rows(model_file)
    headers = ["trivial baseline", "AUC", "model minus this", "one-sided 95 % lower bound"]
    absent = model_file.absent_baselines.items()
    lines = [f"Undefined baseline: {NAMES.get(key, key)} ({_cell(why)})." for key, why in absent]
    return [table(headers, rows, "lrrr"), *lines] if rows else lines


def _final_fit(model_file: ModelFile) -> list[str]:
    final = model_file.final_fit
    if final is None:
        return []
    return [
        f"All figures are of {model_file.measured_run}: the weights in this file were then trained "
        f"from scratch on these {final['n_rows']:,} rows for {final['n_epochs']:g} epochs. No "
        "labelled row is left to measure them on; scoring the valid rows with them would overstate "
        "the AUC."
    ]


def _calibration(model_file: ModelFile) -> list[str]:
    """Return how probabilities were calibrated; nothing if they were not."""
    if model_file.calibration is None:
        return []
    n_segments, n_rows = len(model_file.calibration["slopes"]), model_file.calibration["n_rows"]
    kept = " The map is that of the selection run." if model_file.final_fit else ""
    return [
        f"Probabilities are calibrated: logits pass a monotone map of {n_segments} linear "
        f"segment{'s' if n_segments > 1 else ''}, fitted on {n_rows:,} valid rows, those of "
        "half of the users. Log-loss and calibration error are measured on the rows of the other "
        f"half, and the metrics named uncalibrated are the same without the map.{kept}"
    ]


def _details(evaluation: Mapping[str, Any]) -> list[str]:
    """Return further measurements by paragraph; files of early pipelines have none."""
    if not evaluation:
        return []
    by_user, calibration = evaluation["by_user"], evaluation["calibration"]
    limit = ""
    if "limit" in calibration:
        limit = f" Chance alone gives a calibrated model up to {calibration['limit']:.4f}."
    within = "none, as no user has rows of both classes"
    if by_user["auc"] is not None:
        within = (
            f"{by_user['auc']:.4f}, the mean over {by_user['n_groups']:,} users who have rows of "
            f"both classes, weighted by their {by_user['n_rows']:,} rows"
        )
    return [
        f"AUC within the rows of a user: {within}. Expected calibration error: "
        f"{calibration['error']:.4f}, over {len(calibration['bins'])} bins of equally many rows."
        f"{limit}",
        "AUC by how often the target occurs in train rows, as a target or in a history:",
        popularity_table(evaluation),
    ]


def epochs_table(history: Mapping[str, Any]) -> str:
    """Return losses, metrics, gradient norms, rate and speed by epoch as a Markdown table.

    `history` is that of a model file (`TrainingHistory.to_mapping`).
    """
    names = list(history["epochs"][0]["metrics"])
    rows = []
    for record in history["epochs"]:
        best = "**" if record["epoch"] == history["best_epoch"] else ""
        measured = [record["train_loss"], *(record["metrics"][name] for name in names)]
        rate, speed = f"{record['learning_rate']:.2g}", f"{record['rows_per_second']:,.0f}"
        cells = [f"{value:.4f}" for value in measured]
        norm, largest = record.get("gradient_norm"), record.get("largest_gradient_norm")
        norms = "" if norm is None else f"{norm:.3g} ({largest:.3g})"
        rows.append([f"{best}{record['epoch']:g}{best}", *cells, norms, rate, speed])
    metrics = [name.replace("_", " ").replace(" auc", " AUC") for name in names]
    headers = ["epoch", "train loss", *metrics]
    headers += ["gradient norm (largest)", "learning rate", "rows/s"]
    return table(headers, rows, "r" * len(headers))


def _pairs(name: str, value: str, values: Mapping[str, Any]) -> str:
    rows = [[escaped(key), _cell(content)] for key, content in values.items()]
    return table([name, value], rows, "ll")


def _cell(content: Any) -> str:
    return f"{content:.10g}" if isinstance(content, float) else escaped(content)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping; keys are paths such as `training.seed`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

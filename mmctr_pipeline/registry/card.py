"""The model card: what a saved model is, in Markdown for people."""

from collections.abc import Mapping
from typing import Any

from mmctr_pipeline.registry.model_file import ModelFile


def model_card(model_file: ModelFile, version: str) -> str:
    """Return the card of `model_file` as Markdown."""
    metrics = model_file.metrics
    sections = [
        f"# {model_file.model_config['name']}, version {version}",
        f"A model of the click-through rate with {model_file.n_parameters:,} parameters, "
        f"trained {model_file.created_at} with preset {model_file.preset or '(none)'}. "
        "It gives each row of user, item, history, likes and views level a click probability.",
        "## Quality",
        f"Validation AUC **{metrics['valid_auc']:.4f}**, 95 % interval "
        f"{metrics['valid_auc_low']:.4f} to {metrics['valid_auc_high']:.4f} (DeLong); "
        f"nothing is submitted below {model_file.auc_floor:g}. The epoch was selected on the same "
        "valid rows.",
        *_of_selection(model_file),
        _table(metrics, "metric", "value"),
        *_details(model_file.evaluation),
        "## Data and vectors",
        _table(
            {
                "data fingerprint": model_file.data_fingerprint,
                "vectors": model_file.vector_identity,
                **{f"{name} encoder": i for name, i in model_file.encoder_identities.items()},
                "transform": model_file.transform_identity,
                **{name.replace("_", " "): size for name, size in model_file.spec.items()},
            },
            "what",
            "identity or size",
        ),
        "Scoring with vectors of another identity is refused. Ids that training did not show are "
        "scored as the unknown row (improved_mmctr: ids beyond the tables as the padding row); "
        "such an item keeps its vectors.",
        "## Training",
        _epochs(model_file.history),
        "## Configuration",
        _table(_flat(model_file.resolved_config), "setting", "value"),
        "## Versions",
        _table(model_file.library_versions, "library", "version"),
    ]
    return "\n\n".join(sections) + "\n"


def popularity_table(evaluation: Mapping[str, Any]) -> str:
    """Return the AUC by popularity of the target as a Markdown table.

    `evaluation` is that of a model file (`Evaluation.to_mapping`).
    """
    lines = [
        "| target | times in train | rows | clicks | AUC | 95 % interval |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for bucket in evaluation["by_popularity"]:
        interval, n_rows = bucket["auc"], bucket["n_rows"]
        if interval:
            auc, spread = (
                f"{interval['auc']:.4f}",
                f"{interval['low']:.4f} to {interval['high']:.4f}",
            )
        else:
            auc, spread = "none", "the rows are of one class" if n_rows else "no such row"
        least, most = bucket["least"], bucket["most"]
        times = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        cells = [bucket["name"], times, f"{n_rows:,}", f"{bucket['n_positive']:,}", auc, spread]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of_selection(model_file: ModelFile) -> list[str]:
    final = model_file.final_fit
    if final is None:
        return []
    return [
        f"All figures are {model_file.measured_on}: the weights in this file were then trained "
        f"anew on these {final['n_rows']:,} rows for {final['n_epochs']:g} epochs. No row is left "
        "that could measure them, and to score the valid rows with them would flatter."
    ]


def _details(evaluation: Mapping[str, Any]) -> list[str]:
    """Return what a file of an earlier pipeline does not hold, paragraph by paragraph."""
    if not evaluation:
        return []
    by_user, calibration = evaluation["by_user"], evaluation["calibration"]
    within = "none, as no user has rows of both classes"
    if by_user["auc"] is not None:
        within = (
            f"{by_user['auc']:.4f}, the mean over {by_user['n_groups']:,} users who have rows of "
            f"both classes, weighted by their {by_user['n_rows']:,} rows"
        )
    return [
        f"AUC within the rows of a user: {within}. Expected calibration error: "
        f"{calibration['error']:.4f}, over {len(calibration['bins'])} bins of equally many rows.",
        "AUC by how often the target stands in train rows, as their target or in their histories:",
        popularity_table(evaluation),
    ]


def _epochs(history: Mapping[str, Any]) -> str:
    records = history["epochs"]
    names = list(records[0]["metrics"])
    heads = [
        "epoch",
        "train loss",
        *(n.replace("_", " ") for n in names),
        "learning rate",
        "rows/s",
    ]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---:" for _ in heads) + " |"]
    for record in records:
        best = "**" if record["epoch"] == history["best_epoch"] else ""
        cells = [
            f"{best}{record['epoch']:g}{best}",
            f"{record['train_loss']:.4f}",
            *(f"{record['metrics'][name]:.4f}" for name in names),
            f"{record['learning_rate']:.2g}",
            f"{record['rows_per_second']:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table(values: Mapping[str, Any], name: str, value: str) -> str:
    lines = [f"| {name} | {value} |", "| --- | --- |"]
    lines += [f"| {key} | {_cell(content)} |" for key, content in values.items()]
    return "\n".join(lines)


def _cell(content: Any) -> str:
    if isinstance(content, float):
        return f"{content:.10g}"
    return str(content).replace("|", "\\|").replace("\n", " ")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

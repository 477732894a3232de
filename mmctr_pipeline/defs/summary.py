"""The summary of a finished run: times, checks, AUC, and where its artefacts are."""

from pathlib import Path
from typing import Any

import dagster as dg

from mmctr_pipeline.baselines import NAMES, metric_name
from mmctr_pipeline.defs.config import current_deployment
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.presets.preset import preset_name


def summarise(
    instance: dg.DagsterInstance, result: dg.JobExecutionResult, storage: Path
) -> dict[str, Any]:
    """Collect the figures of a finished run from Dagster's records and the artefacts."""
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.registry.versions import LATEST, LATEST_REPORT
    from mmctr_pipeline.reporting.contest import read_contest
    from mmctr_pipeline.sample.write import read_best_possible_auc

    seconds = {
        stats.step_key: stats.end_time - stats.start_time
        for stats in instance.get_run_step_stats(result.run_id)
        if stats.start_time and stats.end_time
    }
    evaluations = result.get_asset_check_evaluations()
    not_passed = [evaluation for evaluation in evaluations if not evaluation.passed]
    model, contest = ModelFile.load(storage / LATEST), read_contest(storage)
    dataset = CtrDataset.read(storage / "train_dataset")
    deployment = current_deployment()
    data_root = DeploymentResource.from_environment(deployment).data_root()
    metrics = ["valid_auc", "valid_auc_low", "valid_auc_high", "valid_log_loss"]
    metrics += [metric_name(key) for key in NAMES if key in model.baselines]
    return {
        "preset": preset_name(deployment),
        "run_id": result.run_id,
        "data": str(deployment.data_dir or "the sample dataset"),
        "data_fingerprint": model.data_fingerprint,
        "day": dataset.day,
        "device": model.resolved_config["device"],
        **{f"n_{name}_rows": len(split) for name, split in dataset.splits.items()},
        **{name: model.metrics[name] for name in metrics},
        "best_possible_auc": read_best_possible_auc(data_root, dataset.valid_days),
        "seconds": {key: value for key, value in seconds.items() if not key.endswith("_checks")},
        "check_seconds": {key: value for key, value in seconds.items() if key.endswith("_checks")},
        "checks_passed": sum(evaluation.passed for evaluation in evaluations),
        "checks_warned": _names(not_passed, dg.AssetCheckSeverity.WARN),
        "checks_failed": _names(not_passed, dg.AssetCheckSeverity.ERROR),
        "champion": contest["champion"],
        "promoted": contest["promoted"],
        "promotion": contest["headline"],
        "model_path": str((storage / LATEST).resolve()),
        "champion_path": str((storage / "best_model.pt").resolve()),
        "report_path": str((storage / LATEST_REPORT).resolve()),
        "submission_path": str(storage / "submission.csv"),
        "prediction_zip_path": str(storage / "prediction.zip"),
    }


def table(summary: dict[str, Any]) -> str:
    """Return the printed form of a summary."""
    lines = ["", "asset                  seconds"]
    lines += [f"{name:<20} {value:9.1f}" for name, value in summary["seconds"].items()]
    lines += [f"{'checks':<20} {sum(summary['check_seconds'].values()):9.1f}", ""]
    best = summary["best_possible_auc"]
    rows = {
        "preset": summary["preset"],
        "device": summary["device"],
        **({"day": summary["day"]} if summary["day"] else {}),
        "train rows": f"{summary['n_train_rows']:,}",
        "valid AUC": f"{summary['valid_auc']:.4f}  (95 % interval "
        f"{summary['valid_auc_low']:.4f} to {summary['valid_auc_high']:.4f})",
        "trivial baselines": ", ".join(
            f"{name} {summary[metric_name(key)]:.4f}"
            for key, name in NAMES.items()
            if metric_name(key) in summary
        ),
        "best possible AUC": f"{best:.4f}" if best is not None else "not known for real data",
        "checks": _check_counts(summary),
        "model": _shown(summary["model_path"]),
        "champion": "this model" if summary["promoted"] else _rejection(summary),
        "report": _shown(summary["report_path"]),
        "submission": _shown(summary["submission_path"]),
        "for the competition": _shown(summary["prediction_zip_path"]),
        "look at it": "make ui   (then open http://localhost:3000)",
    }
    lines += [f"{name:<20} {value}" for name, value in rows.items()]
    return "\n".join(lines)


def _names(
    evaluations: list[dg.AssetCheckEvaluation], severity: dg.AssetCheckSeverity
) -> list[str]:
    return [
        f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
        for evaluation in evaluations
        if evaluation.severity is severity
    ]


def _check_counts(summary: dict[str, Any]) -> str:
    """Return how many checks passed, warned and failed, and which did not pass."""
    counts = [f"{summary['checks_passed']} passed"]
    for verdict in ("warned", "failed"):
        names = summary[f"checks_{verdict}"]
        if names or verdict == "failed":
            counts.append(f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names else ""))
    return ", ".join(counts)


def _shown(path: str) -> str:
    """Return a path as seen from the current folder, if it is in that folder."""
    found, folder = Path(path), Path.cwd()
    return str(found.relative_to(folder)) if found.is_relative_to(folder) else path


def _rejection(summary: dict[str, Any]) -> str:
    """Return which model was submitted instead of a rejected one, why, and how to submit it."""
    version = Path(summary["model_path"]).parent.name
    return (
        f"{summary['champion_path']}, since this model was {summary['promotion']}. "
        f"To submit this model anyway: mmctr models promote {version}"
    )

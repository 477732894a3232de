"""`make run` and `make demo`: run the whole pipeline, show its progress and print a summary."""

import datetime
import json
import logging
import os
import sys
import threading
import uuid
from pathlib import Path
from typing import Any, cast

import click
import dagster as dg
import yaml

from mmctr_pipeline.defs.config import current_deployment, deployment_preset, run_config
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.presets.preset import preset_name
from mmctr_pipeline.settings import SettingsError

LAUNCH_TAG = "mmctr/launch"
"""Run tag that identifies the run of one `make run`, whose id is not known beforehand."""

_SHOWN_EVENTS = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}
_POLL_SECONDS = 0.25


def main() -> int:
    """Run the pipeline for the deployment of this environment; return the exit status."""
    # Progress bars of libraries do not mix with the printed events.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        preset = deployment_preset()
        job = dg.build_reconstructable_job("mmctr_pipeline.definitions", "full_pipeline_job")
        instance = dg.DagsterInstance.get()
    except (SettingsError, DeploymentError, dg.DagsterError) as error:
        click.echo(f"error: {error}")
        return 2
    storage, config = current_deployment().storage_dir, run_config(preset)
    config_path = storage / "run_config.yaml"
    with atomic_write(config_path) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    click.echo(f"Preset {preset_name(current_deployment())}; its run config is in {config_path}")

    with instance:
        try:
            result = _execute(job, instance, config)
        except dg.DagsterError as error:
            click.echo(f"error: {error}\nThe run did not start.")
            return 1
        if not result.success:
            click.echo(
                f"The run failed; its log: dagster run {result.run_id}, or `make ui`. Artefacts "
                "written before the failure are kept: once it is fixed, materialise the rest with\n"
                "  dagster asset materialize --select NAME+ -m mmctr_pipeline.definitions"
            )
            return 1
        summary = _summary(instance, result, storage)
    with atomic_write(storage / "run_summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    click.echo(_table(summary))
    return 0


def _execute(
    job: Any, instance: dg.DagsterInstance, config: dict[str, Any]
) -> dg.JobExecutionResult:
    """Execute a reconstructable job and print its events as they are recorded."""
    # Events are printed instead of Dagster's own console log.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    tags, ended = {LAUNCH_TAG: uuid.uuid4().hex}, threading.Event()
    printer = threading.Thread(target=_print_events, args=(instance, tags, ended), daemon=True)
    printer.start()
    try:
        return dg.execute_job(job, instance, run_config={**config, **quiet}, tags=tags)
    finally:
        ended.set()
        printer.join()


def _print_events(
    instance: dg.DagsterInstance, tags: dict[str, str], ended: threading.Event
) -> None:
    """Print the events of the run with these tags until it has ended and all are printed."""
    run_id = cursor = None
    is_last = False
    while not is_last:
        is_last = ended.wait(_POLL_SECONDS)
        if run_id is None:
            runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=1)
            run_id = runs[0].run_id if runs else None
        if run_id is not None:
            recorded = instance.get_records_for_run(run_id, cursor=cursor)
            cursor = recorded.cursor
            for record in recorded.records:
                _print_event(record.event_log_entry)


def _print_event(entry: dg.EventLogEntry) -> None:
    """Print an event as a line, or with its error, unless it is Dagster's housekeeping."""
    event, level, text = entry.dagster_event, int(entry.level), entry.user_message
    if event is None:
        is_shown = level >= logging.INFO
    else:
        is_shown = level >= logging.ERROR or event.event_type in _SHOWN_EVENTS
    if not is_shown:
        return
    if event is not None:
        text, data = event.message or "", cast("Any", event.event_specific_data)
        # The failure of a run repeats the error of its first failed step.
        if getattr(data, "error", None) and not getattr(data, "first_step_failure_event", None):
            text += f"\n{data.error.to_string()}"
    time = datetime.datetime.fromtimestamp(entry.timestamp)
    click.echo(f"{time:%H:%M:%S}  {entry.step_key or '':<24}{text}")


def _summary(
    instance: dg.DagsterInstance, result: dg.JobExecutionResult, storage: Path
) -> dict[str, Any]:
    """Collect the figures of a finished run from Dagster's records and the artefacts."""
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.sample.write import read_best_possible_auc

    seconds = {
        stats.step_key: stats.end_time - stats.start_time
        for stats in instance.get_run_step_stats(result.run_id)
        if stats.start_time and stats.end_time
    }
    evaluations = result.get_asset_check_evaluations()
    model = ModelFile.load(storage / "best_model.pt")
    dataset = CtrDataset.read(storage / "train_dataset")
    deployment = current_deployment()
    data_root = DeploymentResource.from_environment(deployment).data_root()
    metrics = ("valid_auc", "valid_auc_low", "valid_auc_high", "valid_log_loss")
    return {
        "preset": preset_name(deployment),
        "run_id": result.run_id,
        "data": str(deployment.data_dir or "the sample dataset"),
        "data_fingerprint": model.data_fingerprint,
        "device": model.resolved_config["device"],
        **{f"n_{name}_rows": len(split) for name, split in dataset.splits.items()},
        **{name: model.metrics[name] for name in metrics},
        "best_possible_auc": read_best_possible_auc(data_root),
        "seconds": {key: value for key, value in seconds.items() if not key.endswith("_checks")},
        "check_seconds": {key: value for key, value in seconds.items() if key.endswith("_checks")},
        "checks_passed": sum(evaluation.passed for evaluation in evaluations),
        "checks_failed": [
            f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
            for evaluation in evaluations
            if not evaluation.passed
        ],
        "model_path": str((storage / "best_model.pt").resolve()),
        "submission_path": str(storage / "submission.csv"),
        "prediction_zip_path": str(storage / "prediction.zip"),
    }


def _table(summary: dict[str, Any]) -> str:
    lines = ["", "asset                  seconds"]
    lines += [f"{name:<20} {value:9.1f}" for name, value in summary["seconds"].items()]
    lines += [f"{'checks':<20} {sum(summary['check_seconds'].values()):9.1f}", ""]
    best, failed = summary["best_possible_auc"], summary["checks_failed"]
    rows = {
        "preset": summary["preset"],
        "device": summary["device"],
        "train rows": f"{summary['n_train_rows']:,}",
        "valid AUC": f"{summary['valid_auc']:.4f}  (95 % interval "
        f"{summary['valid_auc_low']:.4f} to {summary['valid_auc_high']:.4f})",
        "best possible AUC": f"{best:.4f}" if best is not None else "not known for real data",
        "checks": f"{summary['checks_passed']} passed, {len(failed)} failed"
        + (f" ({', '.join(failed)})" if failed else ""),
        "model": summary["model_path"],
        "submission": summary["submission_path"],
        "for the competition": summary["prediction_zip_path"],
        "look at it": "make ui   (then open http://localhost:3000)",
    }
    lines += [f"{name:<20} {value}" for name, value in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

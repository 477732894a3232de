"""`make run` and `make demo`: materialise everything, show progress, say what came out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from mmctr_pipeline.defs.config import deployment, deployment_preset, run_config
from mmctr_pipeline.defs.resources import PlacesResource
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.presets.preset import preset_name
from mmctr_pipeline.settings import SettingsError

SELECTION = "*,item_feature,item_images,interactions"
"""Everything; `*` alone leaves out the sources, which are observed rather than materialised."""

_LINE = re.compile(
    r"^\S+ (?P<time>\d\d:\d\d:\d\d) \S+ - dagster - (?P<level>[A-Z]+) - \S+ - "
    r"(?P<run>[0-9a-f-]{36}) - (?P<rest>.*)$"
)
_EVENT = re.compile(r"^(?:\d+ - )?(?:(?P<step>\w+) - )?(?P<event>[A-Z_]{4,}) - (?P<text>.*)$")
_SHOWN_EVENTS = {"STEP_START", "STEP_SUCCESS", "ASSET_CHECK_EVALUATION"}


def main() -> int:
    """Run the pipeline as the environment says; return the exit status of the run."""
    try:
        preset = deployment_preset()
    except (SettingsError, DeploymentError) as error:
        _say(f"error: {error}")
        return 2
    storage = deployment().storage_dir
    config_path = storage / "run_config.yaml"
    with atomic_write(config_path) as temporary:
        temporary.write_text(yaml.safe_dump(run_config(preset), sort_keys=False), encoding="utf-8")
    _say(f"Preset {preset_name(deployment())}; the run config it stands for is in {config_path}")

    status, run_id = _materialize(config_path)
    if run_id is None:
        _say("The run did not start; the lines above say why.")
        return status or 1
    if status != 0:
        _say(
            f"The run failed; its log: dagster run {run_id}, or `make ui`. What was written before "
            "it failed is kept: after mending, materialise the rest with\n"
            "  dagster asset materialize --select NAME+ -m mmctr_pipeline.definitions"
        )
        return status
    summary = _summary(run_id, storage)
    with atomic_write(storage / "run_summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _say(_table(summary))
    return 0


def _materialize(config_path: Path) -> tuple[int, str | None]:
    """Run `dagster asset materialize` on everything, showing its log shortened."""
    # The command's note that it has a successor (`dg launch`) is no news to whoever runs make.
    python = [sys.executable, "-W", "ignore::FutureWarning", "-m"]
    materialize = ["dagster", "asset", "materialize", "--select", SELECTION]
    location = ["-m", "mmctr_pipeline.definitions", "-c", str(config_path)]
    command = [*python, *materialize, *location]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    run_id = None
    for line in process.stdout:
        match = _LINE.match(line)
        run_id = match["run"] if match else run_id
        shown = _shortened(match) if match else line.rstrip()
        if shown and "Loading weights:" not in shown:
            _say(shown)
    return process.wait(), run_id


def _shortened(match: re.Match[str]) -> str | None:
    """Return a log line without date, job and run id; None for Dagster's housekeeping."""
    event = _EVENT.match(match["rest"])
    if event is not None:
        failed = match["level"] in ("ERROR", "CRITICAL")
        if event["event"] not in _SHOWN_EVENTS and not failed:
            return None
        return f"{match['time']}  {event['step'] or '':<24}{event['text']}"
    if match["level"] == "DEBUG":
        return None
    step, _, text = match["rest"].partition(" - ")
    return f"{match['time']}  {step:<24}{text}"


def _summary(run_id: str, storage: Path) -> dict[str, Any]:
    """Gather the figures of a finished run from Dagster's records and the artefacts."""
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.sample.write import read_best_possible_auc

    with dg.DagsterInstance.get() as instance:
        seconds = {
            stats.step_key: stats.end_time - stats.start_time
            for stats in instance.get_run_step_stats(run_id)
            if stats.start_time and stats.end_time
        }
        evaluations = [
            record.event_log_entry.dagster_event.asset_check_evaluation_data
            for record in instance.get_records_for_run(
                run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
            ).records
            if record.event_log_entry.dagster_event is not None
        ]
    model = ModelFile.load(storage / "best_model.pt")
    dataset = CtrDataset.read(storage / "train_dataset")
    return {
        "preset": preset_name(deployment()),
        "run_id": run_id,
        "data": str(deployment().data_dir or "the sample dataset"),
        "data_fingerprint": model.data_fingerprint,
        "device": model.resolved_config["device"],
        "n_train_rows": len(dataset.train),
        "n_valid_rows": len(dataset.valid),
        "n_test_rows": len(dataset.test),
        "valid_auc": model.metrics["valid_auc"],
        "valid_auc_low": model.metrics["valid_auc_low"],
        "valid_auc_high": model.metrics["valid_auc_high"],
        "valid_log_loss": model.metrics["valid_log_loss"],
        "best_possible_auc": read_best_possible_auc(
            PlacesResource.of(deployment()).data_root(_say)
        ),
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
    best = summary["best_possible_auc"]
    rows = {
        "preset": summary["preset"],
        "device": summary["device"],
        "train rows": f"{summary['n_train_rows']:,}",
        "valid AUC": f"{summary['valid_auc']:.4f}  (95 % interval "
        f"{summary['valid_auc_low']:.4f} to {summary['valid_auc_high']:.4f})",
        "best possible AUC": f"{best:.4f}" if best is not None else "not known for real data",
        "checks": f"{summary['checks_passed']} passed, {len(summary['checks_failed'])} failed"
        + (f" ({', '.join(summary['checks_failed'])})" if summary["checks_failed"] else ""),
        "model": summary["model_path"],
        "submission": summary["submission_path"],
        "for the competition": summary["prediction_zip_path"],
        "look at it": "make ui   (then open http://localhost:3000)",
    }
    lines += [f"{name:<20} {value}" for name, value in rows.items()]
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(text + os.linesep)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""One row of the leaderboard: a model trained and scored in a process of its own.

`python -m mmctr_pipeline.comparison.row FOLDER` does the job that `FOLDER/job.json`
states and writes `scores.npy` and, last of all, `result.json`. It ends with whoever started it.
"""

import dataclasses
import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.user_split import split_valid
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.registry.model_file import model_settings
from mmctr_pipeline.training.batches import BatchSource, item_features
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import TrainedCtr, required_modalities, train_ctr
from mmctr_pipeline.training.metrics_report import Evaluation, evaluate
from mmctr_pipeline.training.score import score

JOB, RESULT, SCORES = "job.json", "result.json", "scores.npy"


@dataclasses.dataclass(frozen=True)
class RowJob:
    """What a row's process is to do, as plain values: settings, places, device.

    `inputs` is a folder of `TrainingInputs`, `checkpoints` that of the run's checkpoint, written
    every `checkpoint_seconds` at most; `code` is the hash of the code that trains.
    """

    model: dict[str, Any]
    training: dict[str, Any]
    inputs: str
    checkpoints: str
    checkpoint_seconds: float
    device: str
    code: str

    def write(self, folder: Path) -> None:
        """Write the job into the row's folder."""
        _write_json(folder / JOB, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        return cls(**json.loads((folder / JOB).read_text(encoding="utf-8")))


@dataclasses.dataclass(frozen=True)
class RowResult:
    """What a row measured; its scores of the reporting half lie beside it.

    `seconds` are those of training and validation together, `rows_per_second` the median over
    epochs, `peak_mb` the largest resident memory of the process, `epochs` those that were trained;
    `ended_by` says what ended training: `max_epochs`, `patience` or `max_minutes`. `evaluation` is
    that of the reporting half (`training.evaluation.Evaluation`) as plain values.
    """

    n_parameters: int
    selection_auc: float
    rows_per_second: float
    seconds: float
    peak_mb: float
    epochs: float
    best_epoch: float
    ended_by: str
    code: str
    history: dict[str, Any]
    evaluation: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the result in a row's folder, None where it is not there or of another version."""
        path = folder / RESULT
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.keys() != {field.name for field in dataclasses.fields(cls)}:
            return None
        return cls(**content)


def read_scores(folder: Path) -> np.ndarray:
    """Return a row's probabilities of the reporting half, `(N,) float32`, in the split's order."""
    scores: np.ndarray = np.load(folder / SCORES)
    return scores


def run_row(folder: Path, log: Callable[[str], None]) -> None:
    """Do the job in `folder`: train, choose the epoch on one half, score the other."""
    job = RowJob.read(folder)
    inputs = TrainingInputs.read(Path(job.inputs))
    device = torch.device(job.device)
    model = model_settings(job.model)
    training = TrainingConfig.from_mapping(job.training, str(folder / JOB))
    selecting, reporting = split_valid(inputs.dataset.valid)
    checkpoints = Checkpoints(Path(job.checkpoints), job.checkpoint_seconds)
    trained = train_ctr(
        dataclasses.replace(inputs.dataset, valid=selecting),
        inputs.vectors,
        model,
        training,
        device,
        log,
        checkpoints,
        inputs.modalities,
    )
    read = required_modalities(model, inputs.modalities)
    items = item_features(inputs.dataset.items, inputs.vectors, read).to(device)
    source = BatchSource(reporting, inputs.dataset.histories, items, device, model.max_history)
    scores = score(trained.module, source, training.precision)
    dataset = inputs.dataset
    evaluation = evaluate(reporting, scores, dataset.train, dataset.histories)
    log(f"the other half of the valid users: AUC {evaluation.auc.auc:.4f}")
    with atomic_write(folder / SCORES) as temporary:
        np.save(temporary, scores)
    result = _result(trained, job.code, evaluation)
    _write_json(folder / RESULT, dataclasses.asdict(result))
    checkpoints.remove()


def _result(trained: TrainedCtr, code: str, evaluation: Evaluation) -> RowResult:
    history = trained.history
    return RowResult(
        n_parameters=trained.n_parameters,
        selection_auc=trained.metrics["valid_auc"],
        rows_per_second=trained.metrics["train_rows_per_second"],
        seconds=sum(record.all_seconds for record in history.epochs),
        peak_mb=_peak_memory_mb(),
        epochs=history.epochs[-1].epoch,
        best_epoch=history.best_epoch,
        ended_by=history.ended_by,
        code=code,
        history=history.to_mapping(),
        evaluation=evaluation.to_mapping(),
    )


def _peak_memory_mb() -> float:
    """Return the largest resident memory of this program so far, in MB."""
    # getrusage also counts what the parent held when it started this process.
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _end_with_parent() -> None:
    """Wait for the parent to close our standard input, as its death does, and end at once."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(folder: Path) -> None:
    """Do the job unless it is done; a second process of the same row waits for the first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with locked(folder / ".lock"):
        if RowResult.read(folder) is None:
            run_row(folder, _log)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One row of a comparison: trains and scores a model in its own process.

`python -m mmctr_pipeline.comparison.row FOLDER` does the job in `FOLDER/job.json` and writes
`scores.npy`, then `result.json`. The process ends when its parent does.
"""

import dataclasses
import io
import logging
import resource
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mmctr_pipeline import pipeline
from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.data.fingerprint import file_digest
from mmctr_pipeline.data.user_split import split_valid
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.models.config import model_config_from
from mmctr_pipeline.processes import end_when_closed
from mmctr_pipeline.training.checkpoint import Checkpoints, run_key
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.metrics_report import metrics_report

logger = logging.getLogger(__name__)

JOB, RESULT_FILE, SCORES_FILE = "job.json", "result.json", "scores.npy"


@dataclasses.dataclass(frozen=True)
class RowJob:
    """The task of a row's process: plain values that decide its result.

    `inputs` is a folder of `TrainingInputs`, `code_version` the code version of this module.
    `checkpoint_seconds` is the least time between checkpoints and does not affect the result.
    """

    model: dict[str, Any]
    training: dict[str, Any]
    inputs: str
    device: str
    number_format: str
    threads: int
    code_version: str
    checkpoint_seconds: float

    @property
    def key(self) -> str:
        """Hash of what decides the result; names the row's folder and that of its checkpoints."""
        decisive = dataclasses.asdict(self)
        del decisive["checkpoint_seconds"]
        decisive |= {"inputs": Path(self.inputs).name, "device": torch.device(self.device).type}
        return run_key(**decisive)

    def checkpoints(self, storage: Path) -> Checkpoints:
        """Return the checkpoints of this row in the deployment's storage folder."""
        return Checkpoints(Checkpoints.for_run(storage, self.key).folder, self.checkpoint_seconds)


@dataclasses.dataclass(frozen=True)
class RowResult:
    """The measurements of a row; its scores of the reporting rows are in `scores.npy`.

    `seconds` covers training and validation, `rows_per_second` is the median over epochs, `peak_mb`
    the largest resident memory of the process, and `epochs` the number of trained epochs.
    `ended_by` is `max_epochs`, `patience` or `max_minutes`. `evaluation` is the `MetricsReport` of
    the reporting rows as plain values.
    """

    n_parameters: int
    selection_auc: float
    rows_per_second: float
    seconds: float
    peak_mb: float
    epochs: float
    best_epoch: float
    ended_by: str
    history: dict[str, Any]
    evaluation: dict[str, Any]
    scores_sha256: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the result in a row's folder, or None if the row is not done.

        A damaged result is logged and counts as not done.
        """
        path = folder / RESULT_FILE
        if not path.is_file():
            return None
        try:
            result = cls(**read_record(path))
            read_scores(folder, result.scores_sha256)
        except (DamagedFileError, FileNotFoundError) as error:
            logger.warning(f"{error}; the row runs again")
            return None
        return result


def read_scores(folder: Path, sha256: str = "") -> np.ndarray:
    """Return a row's probabilities of the reporting rows, `(N,) float32`, in their order.

    If `sha256` is given and is not the digest of the file, raises `DamagedFileError`.
    """
    path = folder / SCORES_FILE
    if sha256 and file_digest(path).hex() != sha256:
        raise DamagedFileError(f"{path} is damaged: it is not the file that was written")
    scores: np.ndarray = np.load(path)
    return scores


def run_row(folder: Path) -> None:
    """Do the job in `folder`: train, select the epoch on some valid users, score the others."""
    job = RowJob(**read_record(folder / JOB))
    inputs = TrainingInputs.read(Path(job.inputs))
    dataset, vectors, device = inputs.dataset, inputs.vectors, torch.device(job.device)
    selecting, reporting = split_valid(dataset)
    checkpoints = job.checkpoints(folder.parents[1])
    trained = pipeline.train(
        dataclasses.replace(dataset, valid=selecting),
        vectors,
        model_config_from(job.model, str(folder / JOB)),
        TrainingConfig.from_mapping(job.training, str(folder / JOB)),
        device,
        checkpoints,
    )
    scores = pipeline.score(trained, dataset, reporting, vectors, device)
    evaluation = metrics_report(reporting, scores, dataset.train, dataset.histories)
    logger.info(f"AUC on the reporting users: {evaluation.auc.auc:.4f}")
    saved = io.BytesIO()
    np.save(saved, scores)
    with atomic_write(folder / SCORES_FILE) as temporary:
        temporary.write_bytes(saved.getvalue())  # np.save does not say why a write failed
    history = trained.history
    result = RowResult(
        n_parameters=trained.n_parameters,
        selection_auc=trained.metrics["valid_auc"],
        rows_per_second=trained.metrics["train_rows_per_second"],
        seconds=sum(record.all_seconds for record in history.epochs),
        peak_mb=_peak_memory_mb(),
        epochs=history.epochs[-1].epoch,
        best_epoch=history.best_epoch,
        ended_by=history.ended_by,
        history=history.to_mapping(),
        evaluation=evaluation.to_mapping(),
        scores_sha256=file_digest(folder / SCORES_FILE).hex(),
    )
    write_record(folder / RESULT_FILE, dataclasses.asdict(result))
    checkpoints.remove()


def _peak_memory_mb() -> float:
    """Return the largest resident memory of this program so far, in MB."""
    # getrusage also counts the memory of the parent at the time it started this process.
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def main(folder: Path) -> None:
    """Do the job unless it is done; a second process of the same row waits for the first."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # The runner holds the other end of standard input.
    end_when_closed(sys.stdin.fileno())
    with locked(folder / ".lock"):
        if RowResult.read(folder) is None:
            run_row(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

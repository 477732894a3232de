"""Run the rows of a comparison one after the other and keep their results.

A row's folder is named by a hash of everything that decides its numbers. A comparison that was
killed resumes: it reads the finished rows and continues the row in progress from its checkpoint.
"""

import collections
import dataclasses
import logging
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch

from mmctr_pipeline.code_version import code_version
from mmctr_pipeline.comparison.baseline_rows import baseline_rows
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.row import JOB, RowJob, RowResult, read_scores
from mmctr_pipeline.comparison.table import Leaderboard
from mmctr_pipeline.comparison.table_row import Outcome, ReportingRows, TableRow
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.user_split import split_valid
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.plugins import plugin_code
from mmctr_pipeline.precision import dtype_for, dtype_name
from mmctr_pipeline.training.metrics_report import times_in_train

logger = logging.getLogger(__name__)

_ROW_MODULE = "mmctr_pipeline.comparison.row"
_MAX_REASON = 300


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs each row in its own process and keeps its result in `folder`.

    Parameters
    ----------
    dataset
        The dataset of all rows.
    vectors
        Returns the vectors of a row. Rows with equal `vector_settings` share one call.
    storage
        The deployment's storage folder.
    device
        Where rows train.
    minutes
        Time limit for training and validation of each row; 0 means no limit. The limit of a preset
        holds too.
    again
        Whether to train finished rows again.
    checkpoint_seconds
        Minimum seconds between checkpoints, which go to the storage folder's `checkpoints/`.
    """

    dataset: CtrDataset
    vectors: Callable[[Entry], ItemVectors]
    storage: Path
    device: torch.device
    minutes: float
    again: bool = False
    checkpoint_seconds: float = 30.0

    @property
    def folder(self) -> Path:
        """Folder of the rows: `<key>/{job.json,scores.npy,result.json}`."""
        return self.storage / "leaderboard"

    def run(
        self,
        entries: Sequence[Entry],
        n_seeds: int = 1,
        by_auc: bool = False,
        pairs: Sequence[tuple[str, str]] = (),
    ) -> Leaderboard:
        """Run every row with `n_seeds` seeds, counted up from its preset's, and compare the rows.

        All vectors are computed first; the title vectors of the first row also serve the
        baselines. If a row fails, the table shows why, and the other rows still run. Raises
        `UserSplitError` if the valid users cannot be split.

        Parameters
        ----------
        entries
            The rows.
        n_seeds
            Runs of each row.
        by_auc
            Order the table by AUC instead of by `entries`.
        pairs
            Names of rows to compare, in addition to the first row with each other row.
        """
        split = split_valid(self.dataset)[1]
        assert split.label is not None
        times = times_in_train(split.item_id, self.dataset.train, self.dataset.histories)
        reporting = ReportingRows(split.label, times == 0)
        numbers = range(n_seeds)
        runs = [entry.with_seed(n, self.minutes) for n in numbers for entry in entries]
        inputs: dict[Hashable, Path] = {}
        text: VectorTable | None = None
        for run in runs:
            if run.vector_settings not in inputs:
                vectors = self.vectors(run)
                text = vectors.text if not inputs else text
                written = TrainingInputs(self.dataset, vectors)
                inputs[run.vector_settings] = written.write(self.folder / "inputs")
        outcomes: dict[str, list[Outcome]] = {entry.name: [] for entry in entries}
        for run in runs:
            outcomes[run.name].append(self._outcome(run, inputs[run.vector_settings]))
        rows = [
            TableRow.measure(e.name, e.preset.model.name, outcomes[e.name], reporting)
            for e in entries
        ]
        baselines = baseline_rows(self.dataset, split, text, n_seeds, reporting)
        return Leaderboard.compare(rows, reporting, by_auc, pairs, *baselines)

    def _outcome(self, run: Entry, inputs: Path) -> Outcome:
        """Return the outcome of a run, which is trained first unless it is finished."""
        settings, dtype = run.preset, dtype_for(run.preset.training.precision, self.device)
        job = RowJob(
            model=settings.model.to_mapping(),
            training=settings.training.to_mapping(),
            inputs=str(inputs),
            device=str(self.device),
            number_format=dtype_name(dtype),
            threads=torch.get_num_threads(),
            code_version=code_version(_ROW_MODULE) + plugin_code(settings.model.name),
            checkpoint_seconds=self.checkpoint_seconds,
        )
        folder, seed = self.folder / job.key, settings.training.seed
        label = f"{run.name} (seed {seed})"
        outcome = Outcome(seed, job.key, inputs.name)
        if self.again:
            shutil.rmtree(folder, ignore_errors=True)
            job.checkpoints(self.storage).remove()
        if RowResult.read(folder):
            logger.info(f"{label}: done before, {folder}")
        else:
            logger.info(f"{label}: training, {folder}")
            write_record(folder / JOB, dataclasses.asdict(job))
            if failure := _run_process(folder, label):
                return dataclasses.replace(outcome, failure=failure)
        result, scores = RowResult.read(folder), read_scores(folder)
        return dataclasses.replace(outcome, result=result, scores=scores)


def _run_process(folder: Path, label: str) -> str | None:
    """Run a row's process and log its lines. Return why it failed, or None if it did not."""
    last: collections.deque[str] = collections.deque(maxlen=1)
    # The row's process must not outlive this one, so it ends when its standard input closes.
    with subprocess.Popen(
        [sys.executable, "-m", _ROW_MODULE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            logger.info(f"{label}: {line.rstrip()}")
            if line.strip():
                last.append(line.strip())
        status = process.wait()
    if status == 0:
        return None
    if status < 0:
        name = signal.Signals(-status).name
        hint = "; the system does that when memory runs out" if -status == signal.SIGKILL else ""
        return f"its process was ended by {name}{hint}"
    # The last line of a traceback: the error's name, without its module, and its message.
    error = re.sub(r"^(?:\w+\.)+(?=\w+: )", "", last[0] if last else f"status {status}")
    return error[:_MAX_REASON]

"""Runs the rows of a leaderboard one after the other; what is done is not done again.

A row lies in a folder named by a hash of whatever decides on its numbers. A run that was killed
goes on: rows that are done are read, the one in progress continues from its checkpoint.
"""

import collections
import dataclasses
import functools
import hashlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.row import RowJob, RowResult, read_scores
from mmctr_pipeline.comparison.table import Leaderboard, Outcome, TableRow
from mmctr_pipeline.comparison.user_split import split_valid
from mmctr_pipeline.files.progress import Log
from mmctr_pipeline.models.config import ModelConfig
from mmctr_pipeline.precision import dtype_for, dtype_name
from mmctr_pipeline.training.checkpoint import Checkpoints, run_key
from mmctr_pipeline.training.config import TrainingConfig

CODE_VERSION = "3"
"""Raised whenever the same settings and inputs would give other numbers."""

_DECIDING_CODE = (
    "data",
    "models",
    "training",
    "comparison/user_split.py",
    "comparison/row.py",
    "metrics.py",
    "precision.py",
)
"""What a row's numbers come from, in this package."""

_MAX_REASON = 300


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a row is of: a preset's model and training, under the name that the table shows."""

    name: str
    model: ModelConfig
    training: TrainingConfig


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs rows on `inputs`, each in a process of its own, and keeps them in `folder`.

    A row gets its own epochs or `minutes` of training and validation (0: no limit), whichever is
    less. Checkpoints lie in the storage folder, as those of any training. With `again` rows are
    trained anew though they are done.
    """

    inputs: TrainingInputs
    storage: Path
    device: torch.device
    minutes: float
    log: Log
    again: bool = False
    checkpoint_seconds: float = 30.0

    @property
    def folder(self) -> Path:
        """Where the rows lie, `<key>/{job.json,scores.npy,result.json}`."""
        return self.storage / "leaderboard"

    def run(self, entries: Sequence[Entry], n_seeds: int = 1, by_auc: bool = False) -> Leaderboard:
        """Run every entry under its own seed and the `n_seeds - 1` after it, and compare them.

        A row that fails shows why and stops no other. The table keeps the order of the entries,
        or is ordered `by_auc`. Raises `HalvesError` where valid is of no use.
        """
        _, reporting = split_valid(self.inputs.dataset.valid)
        assert reporting.label is not None
        written = self.inputs.write(self.folder / "inputs")
        outcomes: dict[str, list[Outcome]] = {entry.name: [] for entry in entries}
        for number in range(n_seeds):
            for entry in entries:
                outcomes[entry.name].append(self._outcome(self._limited(entry, number), written))
        rows = [
            TableRow.of(entry.name, entry.model.name, outcomes[entry.name], reporting.label)
            for entry in entries
        ]
        return Leaderboard.of(rows, reporting.label, self.inputs.key, by_auc)

    def _limited(self, entry: Entry, number: int) -> Entry:
        """Return the entry under another seed and with the limit of time."""
        training = entry.training
        limits = [limit for limit in (training.max_minutes, self.minutes) if limit > 0]
        training = dataclasses.replace(
            training,
            seed=training.seed + number,
            max_minutes=min(limits, default=0.0),
            # It would train on the half that selects, and be measured as another model.
            final_fit=False,
        )
        return dataclasses.replace(entry, training=training)

    def _outcome(self, entry: Entry, inputs: Path) -> Outcome:
        """Return the result of a row, which is run unless it is done."""
        key = self._key(entry)
        folder = self.folder / key
        checkpoints = Checkpoints.of_run(self.storage, run_key(row=key, code=_deciding_code()))
        label = f"{entry.name} (seed {entry.training.seed})"
        if self.again:
            shutil.rmtree(folder, ignore_errors=True)
            checkpoints.remove()
        if RowResult.read(folder) is None:
            folder.mkdir(parents=True, exist_ok=True)
            RowJob(
                model=entry.model.to_mapping(),
                training=entry.training.to_mapping(),
                inputs=str(inputs),
                checkpoints=str(checkpoints.folder),
                checkpoint_seconds=self.checkpoint_seconds,
                device=str(self.device),
                code=_deciding_code(),
            ).write(folder)
            self.log(f"{label}: training, {folder}")
            if failure := _run_process(folder, label, self.log):
                return Outcome(entry.training.seed, key, failure=failure)
        else:
            self.log(f"{label}: done before, {folder}")
        result = RowResult.read(folder)
        assert result is not None
        if result.code != _deciding_code():
            self.log(
                f"{label}: trained before {', '.join(_DECIDING_CODE)} of this package were "
                "changed; --again trains it anew"
            )
        return Outcome(entry.training.seed, key, result, read_scores(folder))

    def _key(self, entry: Entry) -> str:
        precision = entry.training.precision
        return run_key(
            model=entry.model.to_mapping(),
            training=entry.training.to_mapping(),
            inputs=self.inputs.key,
            code_version=CODE_VERSION,
            device=self.device.type,
            number_format=dtype_name(dtype_for(precision, self.device)),
            threads=torch.get_num_threads(),
        )


def _run_process(folder: Path, label: str, log: Log) -> str | None:
    """Run a row's process, its lines going to the log; return why it failed, None where not."""
    command = [sys.executable, "-m", "mmctr_pipeline.comparison.row", str(folder)]
    last: collections.deque[str] = collections.deque(maxlen=1)
    # It ends when its standard input does: it must not outlive this process.
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            log(f"{label}: {line.rstrip()}")
            if line.strip():
                last.append(line.strip())
        status = process.wait()
    if status == 0:
        return None
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
        return f"its process was ended by {name}{hint}"
    # The last line of a traceback: the error's name, with its module, and its message.
    error = re.sub(r"^(?:\w+\.)+(?=\w+: )", "", last[0] if last else f"status {status}")
    return error.replace("|", "/")[:_MAX_REASON]


@functools.cache
def _deciding_code() -> str:
    """Return a hash of the source files that decide on a row."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in _DECIDING_CODE:
        place = package / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

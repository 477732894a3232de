"""Runs that are killed and started again, each start in a child process.

`python -m mmctr_pipeline_tests.training.killed_runs FOLDER NAME KILLS` trains the run NAME of
`RUNS` once without a kill and, if KILLS is `every`, with a kill in every part of an epoch. If it is
`any`, it trains with a single kill instead, once for each part that the kill may hit. Results go to
FOLDER.
"""

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.training.checkpoint import Checkpoints
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, small_sample

COMMON = TrainingConfig(max_epochs=4, batch_size=128, patience=9, precision="float32")

RUNS = {
    "cosine restarts": dataclasses.replace(
        COMMON, validations_per_epoch=2, restart_epochs=1, learning_rate=0.01
    ),
    "plateau": dataclasses.replace(
        COMMON, schedule="plateau", plateau_factor=0.3, learning_rate=0.2, optimizer="adamw"
    ),
    "averaging": dataclasses.replace(
        COMMON,
        validations_per_epoch=2,
        schedule="constant",
        weight_averaging=3.0,
        in_batch_negatives=0.5,
    ),
    "early stopping": dataclasses.replace(
        COMMON, max_epochs=9, patience=2, schedule="cosine", learning_rate=0.03
    ),
    "final fit": dataclasses.replace(
        COMMON,
        seed=1,
        patience=1,
        validations_per_epoch=2,
        schedule="plateau",
        learning_rate=0.01,
        weight_averaging=3.0,
        final_fit=True,
    ),
}
"""All have dropout; `early stopping` learns the opposite of its validation labels."""


def count_parts(lines: list[str]) -> int:
    """Return the number of epochs, or parts of epochs, that the lines of a log report."""
    return sum(": train loss" in line for line in lines)


def load_result(folder: Path, killed_at: int | str | None) -> dict[str, Any]:
    """Return what `_train` saved for the run that was killed in part `killed_at`.

    None is the run without a kill, and "each" is the one that was killed in every part.
    """
    result: dict[str, Any] = torch.load(_path(folder, killed_at), weights_only=False)
    return result


def _path(folder: Path, killed_at: int | str | None) -> Path:
    return folder / f"killed at {killed_at}.pt"


class _Lines(logging.Handler):
    """Keeps log lines, and kills the process at its `die_at`-th line about a part, if set."""

    def __init__(self, die_at: int | None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._die_at = die_at

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if count_parts(self.lines) == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _sample(name: str) -> tuple[CtrDataset, ItemVectors]:
    dataset, vectors = small_sample(n_train=700, n_valid=300)
    if name == "early stopping":
        assert dataset.train.label is not None
        opposite = dataclasses.replace(dataset.train, label=1 - dataset.train.label)
        dataset = dataclasses.replace(dataset, train=opposite)
    return dataset, vectors


def _train(
    sample: tuple[CtrDataset, ItemVectors],
    config: TrainingConfig,
    folder: Path,
    killed_at: int | str | None,
    die_at: int | None,
) -> None:
    """Train to the end, or die at the `die_at`-th part, before its checkpoint is written."""
    handler = _Lines(die_at)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    checkpoints = Checkpoints(folder / f"{killed_at}", every_seconds=0)
    trained = train_ctr(*sample, SMALL_MODEL, config, torch.device("cpu"), checkpoints)
    result = {
        "weights": trained.module.state_dict(),
        "metrics": trained.metrics,
        "history": trained.history.to_mapping(),
        "final_fit": dataclasses.asdict(trained.final_fit) if trained.final_fit else {},
        "scores": trained.valid_scores,
        "lines": handler.lines,
    }
    torch.save(result, _path(folder, killed_at))


def _in_child(work: Callable[[], None]) -> int:
    """Return the number of the signal that killed a child doing `work`, 0 if it ended normally."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a child failed; see its output")
    return os.WTERMSIG(status)


def main(folder: Path, name: str, kills: str) -> None:
    """Train one run without a kill, and with `any` or `every` kill."""
    sample = _sample(name)
    # torch's imports for its first step take longer than a run; the children inherit them.
    torch.optim.SGD([torch.zeros(1)]).step()

    def start(killed_at: int | str | None, die_at: int | None = None) -> int:
        return _in_child(lambda: _train(sample, RUNS[name], folder, killed_at, die_at))

    assert start(None) == 0
    n_parts = count_parts(load_result(folder, None)["lines"])
    if kills == "any":
        for part in range(1, n_parts + 1):
            assert start(part, die_at=part) == signal.SIGKILL
            assert start(part) == 0
        return
    # Killed in every part: each start completes one part and dies in the next.
    n_deaths = 0
    while start("each", die_at=2):
        n_deaths += 1
    assert n_deaths == n_parts - 1
    # Starting a finished run again trains nothing.
    assert start("each", die_at=1) == 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not survive in a forked child
    main(Path(sys.argv[1]), *sys.argv[2:])

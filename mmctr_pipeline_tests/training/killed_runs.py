"""Runs that are killed and started again; a process of its own, whose children the system kills.

`python -m mmctr_pipeline_tests.training.killed_runs FOLDER` trains every run of `RUNS` once without
a break and once for each part of an epoch that it may die in, and writes what came out to FOLDER.
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
World = tuple[CtrDataset, ItemVectors]

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
"""All have dropout; `early stopping` learns the opposite of what it is validated on."""


def n_parts_in(lines: list[str]) -> int:
    """Return how many epochs, or parts of one, the lines of a log tell of."""
    return sum(": train loss" in line for line in lines)


def result_of(folder: Path, name: str, killed_at: int | str | None) -> dict[str, Any]:
    """Return what `killed_at` left behind: weights, metrics, history and the lines of the log."""
    result: dict[str, Any] = torch.load(_path(folder, name, killed_at), weights_only=False)
    return result


def _path(folder: Path, name: str, killed_at: int | str | None) -> Path:
    return folder / f"{name}, killed at {killed_at}.pt"


def _train(
    world: World, name: str, folder: Path, killed_at: int | str | None, die_at: int | None
) -> None:
    """Train until the log tells of the part `die_at`, before its checkpoint is written."""
    lines: list[str] = []

    class Deadly(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            if n_parts_in(lines) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    # In a child of its own, so that nothing has to be put back.
    logging.basicConfig(level=logging.INFO, handlers=[Deadly()])
    checkpoints = Checkpoints(folder / f"{name} {killed_at}", every_seconds=0)
    trained = train_ctr(*world, SMALL_MODEL, RUNS[name], torch.device("cpu"), checkpoints)
    result = {
        "weights": trained.module.state_dict(),
        "metrics": trained.metrics,
        "history": trained.history.to_mapping(),
        "final_fit": dataclasses.asdict(trained.final_fit) if trained.final_fit else {},
        "scores": trained.valid_scores,
        "lines": lines,
    }
    torch.save(result, _path(folder, name, killed_at))


def _in_child(work: Callable[[], None]) -> int:
    """Return the number of the signal that killed a child doing `work`, 0 where it ended."""
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
        raise RuntimeError("a child failed: what it wrote says why")
    return os.WTERMSIG(status)


def main(folder: Path) -> None:
    """Do all runs."""
    dataset, vectors = small_sample(n_train=700, n_valid=300)
    opposite = dataclasses.replace(dataset.train, label=1 - dataset.train.label)
    worlds = dict.fromkeys(RUNS, dataset)
    worlds["early stopping"] = dataclasses.replace(dataset, train=opposite)
    # What torch imports for its first step takes longer than a run.
    torch.optim.SGD([torch.zeros(1)]).step()

    def start(name: str, killed_at: int | str | None, die_at: int | None) -> int:
        return _in_child(lambda: _train((worlds[name], vectors), name, folder, killed_at, die_at))

    for name in RUNS:
        assert start(name, None, None) == 0
        n_parts = n_parts_in(result_of(folder, name, None)["lines"])
        for at in range(1, n_parts + 1):
            assert start(name, at, die_at=at) == signal.SIGKILL
            assert start(name, at, None) == 0
        # Killed in every part: each start trains one part more than the one before.
        n_deaths = 0
        while start(name, "each", die_at=2):
            n_deaths += 1
        assert n_deaths == n_parts - 1
        # And started once more though it had ended: nothing is left to train.
        assert start(name, "each", die_at=1) == 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not live on in a child
    main(Path(sys.argv[1]))

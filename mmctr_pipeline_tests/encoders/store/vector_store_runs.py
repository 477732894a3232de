"""Runs against a vector store, in this or in a separate process."""

import datetime
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmctr_pipeline.encoders.store.vector_store import EncodeShard, Shard, StoreResult, VectorStore
from mmctr_pipeline.files.progress import Advance

WIDTH = 3

FIRST_DAY = datetime.datetime(2026, 1, 31, 23, 59, tzinfo=datetime.UTC)

_RUN = """
import os, signal, sys
import numpy as np
from pathlib import Path
from mmctr_pipeline_tests.encoders.store.vector_store_runs import Encoder, run

folder, numbers, stop_at, result = sys.argv[1:]
encoder = Encoder(range(int(numbers)), failing={3, 11})

def encode(positions, advance):
    shard = encoder(positions, advance)
    print("encoding", flush=True)
    sys.stdin.readline()
    if len(encoder.calls) == int(stop_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return shard

np.save(result, run(Path(folder), range(int(numbers)), encode).vectors)
"""


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


class Encoder:
    """Returns vectors that depend on all contents of their shard, and records its calls."""

    def __init__(self, numbers: Collection[int], failing: Collection[int] = ()) -> None:
        self.numbers = list(numbers)
        self.failing = set(failing)
        self.calls: list[list[int]] = []

    def __call__(self, positions: np.ndarray, advance: Advance) -> Shard:
        numbers = np.array([self.numbers[position] for position in positions])
        self.calls.append(numbers.tolist())
        vectors = np.stack(
            [numbers, np.full(len(numbers), numbers.sum()), np.arange(len(numbers))], axis=1
        )
        reasons = {
            row: f"{number} is truncated"
            for row, number in enumerate(numbers)
            if number in self.failing
        }
        return Shard(vectors / np.float32(7), reasons, {"first": int(numbers[0])})

    @property
    def encoded(self) -> list[int]:
        return sorted(number for call in self.calls for number in call)


class WatchedStore(VectorStore):
    """Counts the contents to encode, and calls `before` before each shard."""

    def __init__(self, folder: Path, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(folder)
        self.n_tried = 0
        self._before = before

    def get_or_encode(
        self, identity: str, contents: Sequence[bytes], encode: EncodeShard, **options: Any
    ) -> StoreResult:
        def watched(positions: np.ndarray, advance: Advance) -> Shard:
            self.n_tried += len(positions)
            self._before()
            return encode(positions, advance)

        return super().get_or_encode(identity, contents, watched, **options)


def run(
    folder: Path,
    numbers: Collection[int],
    encode: EncodeShard | None = None,
    *,
    identity: str = "encoder:1",
    shard_size: int = 4,
    reader: str = "reader 1",
    day: int = 0,
) -> StoreResult:
    """Get or encode the contents of `numbers`, `day` days after the first day."""
    store = VectorStore(folder, now=lambda: FIRST_DAY + datetime.timedelta(days=day))
    return store.get_or_encode(
        identity,
        [key(number) for number in numbers],
        encode or Encoder(numbers),
        shard_size=shard_size,
        reader=reader,
        unit="titles",
    )


def start_run(
    folder: Path, numbers: int, result: Path, *, stop_at: int = 0, step_by_step: bool = False
) -> subprocess.Popen[str]:
    """Start a process that encodes `numbers` contents and saves the vectors as `result`.

    The process prints a line for each shard. With `step_by_step`, it then waits for a line on its
    standard input. It kills itself in shard number `stop_at`, counted from 1.
    """
    command = [sys.executable, "-c", _RUN, *map(str, [folder, numbers, stop_at, result])]
    stdin = subprocess.PIPE if step_by_step else subprocess.DEVNULL
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/[0-9a-f]*.parquet"))


def copy_shards(source: Path, target: Path) -> None:
    """Copy the shards of a store with one encoder to another store."""
    for path in shard_files(source):
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / path.parent.name)

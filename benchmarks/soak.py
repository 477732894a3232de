"""Break runs of the pipeline at random points and check that nothing is lost.

    python -m benchmarks.soak [--full] [--points N] [--seed N] [--folder FOLDER]

Each point starts the pipeline like `make run`, in a folder with the artefacts of an earlier run on
other data, and disturbs it:

- kill, term: the run's process gets SIGKILL or SIGTERM, most often in the middle of an asset
- child: another process of the run gets SIGKILL, as if memory had run out
- write: no file can grow beyond a random size
- together: a second run starts, and is refused while the first writes to the storage folder
- prune: `mmctr prune --unused-days 0` runs meanwhile

Afterwards three things are checked:

- Every process of the run must end within seconds. A process that lives longer counts as
  `left_behind`.
- Every earlier artefact must be unchanged, or equal to that of an undisturbed run. Any other
  artefact counts as `lost`.
- The next run must end with the artefacts of an undisturbed run, byte for byte. An artefact that
  differs counts as `differing`. Submission and transforms are compared as whole files. Tables and
  weights are compared without the times and counts that are stored with them.

Two points are done at the same time. Finished points are kept in FOLDER, and the same command
continues after them. There is no peer.

With `--full`, each run has a process for each step, like `make run`. By default, only two disturbed
runs have several processes: one that is killed and one that is terminated. The others run in a
single process, which takes half the time.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import final_line
from benchmarks.soak_place import RUN, Place, Reference, digests, read_results

ASSETS = (
    "text_embeddings",
    "image_embeddings",
    "fused_pca",
    "train_dataset",
    "trained_model",
    "submission_csv",
)
LANES = 2
"""Points done at the same time, each lane in a folder of its own: a run does not fill two cores."""

FAULTS = ("lost", "differing", "left_behind")
PRUNE = [sys.executable, "-m", "mmctr_pipeline.cli.main", "prune", "--unused-days", "0"]

# Kind, asset and executor of the points of the short plan.
_SHORT = [
    ("kill", "text_embeddings", "multiprocess"),
    ("write", None, "in_process"),
    ("term", "trained_model", "multiprocess"),
    ("together", None, "in_process"),
    ("prune", None, "in_process"),
    ("kill", "submission_csv", "in_process"),
]
_FULL = {"kill": 6, "term": 6, "child": 10, "write": 16, "together": 6, "prune": 6}
"""Number of points of each kind in the full plan that may come anywhere in the run."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A disturbance: during `asset`, or anywhere in the run if that is None.

    `executor` is that of the disturbed run. `share` is the part of the asset's or the run's time
    that passes before the disturbance. For the kind `write`, `share` times the size of the largest
    artefact is the limit of file sizes.
    """

    number: int
    kind: str
    asset: str | None
    executor: str
    share: float


def plan(full: bool, n_points: int | None, seed: int) -> list[Point]:
    """Return the points, or the first `n_points` of them."""
    rng = random.Random(seed)
    chosen: list[tuple[str, str | None, str]] = list(_SHORT)
    if full:
        pairs: list[tuple[str, str | None]] = [
            (kind, asset) for asset in ASSETS for kind in ("kill", "term") for _ in range(5)
        ]
        pairs += [(kind, None) for kind, number in _FULL.items() for _ in range(number)]
        rng.shuffle(pairs)
        chosen = [(*pair, "multiprocess") for pair in pairs]
    return [
        Point(number, kind, asset, executor, rng.random())
        for number, (kind, asset, executor) in enumerate(chosen[:n_points])
    ]


def do_point(point: Point, place: Place, reference: Reference) -> dict[str, Any]:
    """Disturb a run, check what it leaves, and check that the next run finishes."""
    place.restore()
    start = time.perf_counter()
    statuses = disturb(point, place, reference)
    left_behind = place.left_behind()
    lost = reference.lost(digests(place.storage))
    # One of two runs succeeds. The other is refused, or starts after the end of the first.
    is_finished = point.kind == "together" and sorted(statuses) in ([0, 0], [0, os.EX_TEMPFAIL])
    failure = None if is_finished else place.finish()
    return dataclasses.asdict(point) | {
        "statuses": statuses,
        "left_behind": left_behind,
        "lost": lost,
        "differing": [failure] if failure else reference.differing(digests(place.storage)),
        "seconds": time.perf_counter() - start,
    }


def do_points(
    seed: int, scale: float, stopped: threading.Event, place: Place, points: list[Point]
) -> None:
    """Do points one after the other until `stopped`; append each result to a file of the place."""
    if not points:
        return
    reference = place.reference(scale)
    for point in points:
        if stopped.is_set():
            return
        line = json.dumps(do_point(point, place, reference))
        with (place.folder / f"seed-{seed}.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        print(f"point {point.number + 1}: {line}", file=sys.stderr, flush=True)


def disturb(point: Point, place: Place, reference: Reference) -> list[int]:
    """Start a run, disturb it, and return the exit statuses when it has ended."""
    if point.kind == "write":
        n_bytes = int(reference.sizes[-1] * point.share)
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        return [place.start(RUN, executor=point.executor, before=limit).wait()]
    processes = [place.start(RUN, executor=point.executor)]
    _wait_for(point, place, processes[0], reference)
    if point.kind == "together":
        processes.append(place.start(RUN, executor=point.executor))
    elif point.kind == "prune":
        processes.append(place.start(PRUNE))
    elif processes[0].poll() is None:
        _signal(point.kind, processes[0])
    return [process.wait() for process in processes]


def _wait_for(
    point: Point, place: Place, process: subprocess.Popen[bytes], reference: Reference
) -> None:
    """Wait until the point's disturbance is due, or until the run has ended."""
    seconds = reference.seconds
    if point.asset is not None:
        started = f'Started execution of step "{point.asset}"'
        while started not in place.output() and process.poll() is None:
            time.sleep(0.05)
        seconds = reference.asset_seconds[point.asset]
    end = time.monotonic() + point.share * seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)


def _signal(kind: str, process: subprocess.Popen[bytes]) -> None:
    if kind == "child":
        children = psutil.Process(process.pid).children(recursive=True)
        for child in sorted(children, key=_is_step)[-1:]:
            child.kill()
    else:
        process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)


def _is_step(process: psutil.Process) -> bool:
    """Return whether a process runs a step; such a process is a fork of the forkserver."""
    try:
        parent = process.parent()
        return parent is not None and process.cmdline() == parent.cmdline()
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    """Do the points that are left; return 1 if any found a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more than 100 points")
    parser.add_argument("--points", type=int, help="do only the first N points")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=0.1, help="size of the sample datasets")
    parser.add_argument("--folder", type=Path, default=Path("storage") / "soak")
    chosen = parser.parse_args()
    from mmctr_pipeline.code_version import code_version

    code = code_version("mmctr_pipeline.definitions")[:8]
    executor = "multiprocess" if chosen.full else "in_process"
    folder = chosen.folder.resolve() / f"{code}-scale-{chosen.scale}-{executor}"
    points = plan(chosen.full, chosen.points, chosen.seed)

    def done() -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for path in folder.glob(f"lane-*/seed-{chosen.seed}.jsonl"):
            found |= read_results(path)
        return found

    finished = done()
    left = [point for point in points if point.number not in finished]
    if left:
        stopped = threading.Event()
        job = functools.partial(do_points, chosen.seed, chosen.scale, stopped)
        places = [Place(folder / f"lane-{lane}", executor) for lane in range(LANES)]
        parts = [left[lane::LANES] for lane in range(LANES)]
        with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
            try:
                list(lanes.map(job, places, parts))
            finally:
                stopped.set()  # after Ctrl-C or a failure, each lane ends with its present point
    finished = done()
    results = [finished[point.number] for point in points]
    faults = {name: sum(len(result[name]) for result in results) for name in FAULTS}
    final_line(
        name="soak",
        points=len(results),
        **faults,
        kinds=collections.Counter(point.kind for point in points),
        assets=collections.Counter(point.asset for point in points if point.asset),
        seconds=sum(result["seconds"] for result in results),
        unit="s",
    )
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Break runs of the pipeline at random points and check that nothing is lost.

    python -m benchmarks.soak [--full] [--points N] [--seed N] [--folder FOLDER]

Each point starts the run of `make run` over the artefacts of an earlier run on other data, and
disturbs it:

- kill, term: the run's process gets SIGKILL or SIGTERM, most often in the middle of an asset
- child: another process of the run gets SIGKILL, as the system does when memory runs out
- write: no file can grow beyond a random size
- together: a second run starts
- prune: `mmctr prune --unused-days 0` runs meanwhile

Then every process of the run must end within seconds (others count as `left_behind`), every earlier
artefact must be as it was or that of an undisturbed run (others count as `lost`), and the next run
must end with the artefacts of an undisturbed run, byte for byte (others count as `differing`):
submission and transforms as files, tables and weights without the times and counts beside them.
Finished points are kept in FOLDER, and the same command goes on after them. There is no peer.

With `--full`, each run is that of `make run`, with a process for each step. By default, only two
disturbed runs are, one killed and one terminated; the others have one process, which takes half
the time.
"""

import argparse
import collections
import dataclasses
import functools
import json
import random
import resource
import signal
import subprocess
import sys
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
FAULTS = ("lost", "differing", "left_behind")
PRUNE = [sys.executable, "-m", "mmctr_pipeline.cli.main", "prune", "--unused-days", "0"]

_SHORT = [
    ("kill", "text_embeddings", "multiprocess"),
    ("write", None, "in_process"),
    ("term", "trained_model", "multiprocess"),
    ("together", None, "in_process"),
    ("prune", None, "in_process"),
    ("kill", "submission_csv", "in_process"),
]
_FULL = {"kill": 6, "term": 6, "child": 10, "write": 16, "together": 6, "prune": 6}
"""Points of the full plan beside those in the middle of each asset."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A disturbance, in the middle of an asset if it names one, otherwise anywhere in the run.

    `executor` is that of the disturbed run. `share` is the share of the asset's or the run's time
    that passes before the disturbance. For `write` it is the largest size of a file, as a share of
    the largest artefact's.
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
        pairs = [(kind, asset) for asset in ASSETS for kind in ("kill", "term") for _ in range(5)]
        pairs += [(kind, None) for kind, number in _FULL.items() for _ in range(number)]
        rng.shuffle(pairs)
        chosen = [(*pair, "multiprocess") for pair in pairs]
    return [Point(i, *each, rng.random()) for i, each in enumerate(chosen[:n_points])]


def do_point(point: Point, place: Place, reference: Reference) -> dict[str, Any]:
    """Disturb a run, check what it leaves, and check that the next run finishes."""
    place.restore()
    start = time.perf_counter()
    statuses = disturb(point, place, reference)
    left_behind = place.left_behind()
    lost = reference.lost(digests(place.storage))
    # Two runs at once that both ended well need no other one.
    is_finished = point.kind == "together" and not any(statuses)
    failure = None if is_finished else place.finish()
    return dataclasses.asdict(point) | {
        "statuses": statuses,
        "left_behind": left_behind,
        "lost": lost,
        "differing": [failure] if failure else reference.differing(digests(place.storage)),
        "seconds": time.perf_counter() - start,
    }


def disturb(point: Point, place: Place, reference: Reference) -> list[int]:
    """Start a run, disturb it, and return the exit statuses when it has ended."""
    if point.kind == "write":
        sizes = (int(reference.sizes[-1] * point.share),) * 2
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, sizes)
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
    """Wait for the point's moment, or for the end of the run."""
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
        # The latest is the process of a step, if there is one.
        for child in psutil.Process(process.pid).children(recursive=True)[-1:]:
            child.kill()
    else:
        process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)


def main() -> int:
    """Do the points that are left; return 1 if any found a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more than 100 points")
    parser.add_argument("--points", type=int, help="only the first ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=0.1, help="size of the sample datasets")
    parser.add_argument("--folder", type=Path, default=Path("storage") / "soak")
    chosen = parser.parse_args()
    from mmctr_pipeline.code_version import code_version

    code = code_version("mmctr_pipeline.definitions")[:8]
    executor = "multiprocess" if chosen.full else "in_process"
    place = Place(chosen.folder.resolve() / f"{code}-scale-{chosen.scale}-{executor}", executor)
    reference = place.reference(chosen.scale)
    path = place.folder / f"seed-{chosen.seed}.jsonl"
    points, done = plan(chosen.full, chosen.points, chosen.seed), read_results(path)
    for point in points:
        if point.number not in done:
            done[point.number] = do_point(point, place, reference)
            line = json.dumps(done[point.number])
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            print(f"point {point.number + 1} of {len(points)}: {line}", file=sys.stderr, flush=True)
    results = [done[point.number] for point in points]
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

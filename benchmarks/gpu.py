"""Run all tests and benchmarks that need a GPU, in less than eight minutes.

    python -m benchmarks.gpu [--out gpu.json] [--parts NAME ...]
    python -m benchmarks.gpu --rehearse

Runs the tests that need a CUDA device and the benchmarks whose figures docs/benchmarks.md shows:
`train --full` with twelve epochs, `train`, `score`, and `parity --full` for the AUC in bfloat16.
Parts whose speed does not matter run at the same time. Each part is a process with its own time
limit. After every part, its result and the end of its output are written to the file `--out`. So
they are kept if a later part fails or the whole run is killed.

Needs only numpy, torch, pyarrow, PyYAML and SciPy. The tests also need pytest and are left out
without it. If nothing can be installed on the machine, run `pip install --target FOLDER pytest` on
another one, copy FOLDER, and put it into PYTHONPATH.

`--rehearse` does the same on the CPU with tiny data; its figures mean nothing. In the last line,
`ours` is the rows per second of `train --full`, and `peer` the rate expected of an H200.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import device_name, final_line
from mmctr_pipeline.files.atomic import atomic_write

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).parents[1]
# Time limit of the whole run, and number of epochs of `train --full`.
SECONDS, N_EPOCHS = 470, 12
# What is expected of an H200: rows per second, and seconds for twelve epochs.
EXPECTED_RATE, EXPECTED_SECONDS = 1_000_000, 90

_TAIL = 4000
"""Number of characters at the end of a part's output that are kept."""

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """A process to run: its command, its limit in seconds and, if it is left out, the reason."""

    name: str
    command: Sequence[str]
    limit: float
    left_out: str = ""


def run_part(part: Part, deadline: float) -> Result:
    """Run a part until its limit or the deadline, and return its outcome.

    `ok` is None if the part was left out. `result` is the last JSON object in its output, or the
    counts of a test run. `output_end` is the end of its standard output and standard error.
    """
    seconds_left = min(part.limit, deadline - time.monotonic())
    if part.left_out or seconds_left <= 0:
        return {"ok": None, "outcome": f"left out: {part.left_out or 'no time'}"}
    start, outcome = time.monotonic(), ""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            part.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        try:
            process.wait(seconds_left)
        except subprocess.TimeoutExpired:
            outcome = f"killed after {seconds_left:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    seconds = round(time.monotonic() - start, 1)
    outcome = outcome or f"exit status {process.returncode} after {seconds} s"
    return {
        "ok": process.returncode == 0,
        "outcome": outcome,
        "seconds": seconds,
        "result": _last_json(lines) or _test_counts(lines),
        "warnings": [line for line in lines if "without the CUDA graph" in line],
        "command": " ".join(part.command),
        "output_end": "\n".join(lines)[-_TAIL:],
    }


def _last_json(lines: Sequence[str]) -> Result | None:
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return None


def _test_counts(lines: Sequence[str]) -> Result | None:
    """Return the numbers in pytest's last line, such as `{"passed": 14, "skipped": 2}`."""
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", lines[-1] if lines else "")
    return {name: int(number) for number, name in counts} or None


def part_groups(rehearse: bool, data: Path) -> list[list[Part]]:
    """Return groups of parts; the parts of a group run at the same time.

    The first group also writes the dataset `data`.
    """
    device = "cpu" if rehearse else "cuda"

    def python(*arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def benchmark(module: str, *arguments: str) -> list[str]:
        program = ["-m", f"benchmarks.{module}"]
        if rehearse:
            program = ["-c", f"from benchmarks.gpu import run_small; run_small({module!r})"]
        return python(*program, f"--device={device}", *arguments)

    small = ["--rows=4300"] if rehearse else []  # plain training warms up on 4,096 rows
    files = [
        path.relative_to(REPOSITORY).as_posix()
        for path in sorted((REPOSITORY / "mmctr_pipeline_tests").rglob("test_*.py"))
        if "@pytest.mark.cuda\n" in path.read_text()
    ]
    pytest = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "cuda"]
    tests = python(*pytest, "--continue-on-collection-errors", *files)
    is_missing = importlib.util.find_spec("pytest") is None
    write = f"from benchmarks.gpu import write_data; write_data({str(data)!r}, {rehearse})"
    train_full = ["--full", f"--epochs={2 if rehearse else N_EPOCHS}", f"--data={data}"]
    train = ["--rounds=1", "--seconds=4", *small]
    slack = 10 if rehearse else 1  # a rehearsal may share its machine with other work
    return [
        [
            Part("tests", tests, 200 * slack, "pytest is not installed" if is_missing else ""),
            Part("parity", benchmark("parity", "--full", *small), 240 * slack),
            Part("data", python("-c", write), 120 * slack),
        ],
        [Part("train_full", benchmark("train", *train_full), 130 * slack)],
        [Part("train", benchmark("train", *train), 110 * slack)],
        [Part("score", benchmark("score", *small), 100 * slack)],
    ]


def only(groups: Sequence[Sequence[Part]], names: Sequence[str]) -> list[list[Part]]:
    """Return the parts with these names, in their groups; an unknown name ends the program."""
    known = [part.name for group in groups for part in group]
    for name in names:
        if name not in known:
            raise SystemExit(f"error: there is no part {name!r}; known: {', '.join(known)}")
    return [[part for part in group if part.name in names] for group in groups]


def write_data(folder: str, rehearse: bool) -> None:
    """Write the dataset of `train --full`."""
    from benchmarks.samples import write_full_size, write_scaled

    if rehearse:
        write_scaled(Path(folder), 4300, 500)
    else:
        write_full_size(Path(folder))


def run_small(module: str) -> None:
    """Run a benchmark with the arguments of this process and tiny data."""
    from benchmarks import parity, samples, score

    samples.write_full_tables = samples.write_scaled
    score.N_TRAIN_ROWS, parity.N_VALID_ROWS, parity.FULL_SEEDS = 4300, 500, 2
    importlib.import_module(f"benchmarks.{module}").main()


def run_all(groups: Sequence[Sequence[Part]], report: Result, out: Path) -> None:
    """Run group after group, and write `report` with the results to `out` after each part."""
    deadline = time.monotonic() + (math.inf if report["rehearsal"] else SECONDS)
    report["parts"] = {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for group in groups:
            running = {pool.submit(run_part, part, deadline): part for part in group}
            for done in concurrent.futures.as_completed(running):
                name, result = running[done].name, done.result()
                report["parts"][name] = result
                with atomic_write(out) as path:
                    path.write_text(json.dumps(report, indent=1))
                logger.info(f"{name}: {result['outcome']}")


def summary(results: dict[str, Result]) -> Result:
    """Return the values of the final line."""
    found = {name: result.get("result") or {} for name, result in results.items()}
    full = found.get("train_full", {})
    rate, seconds = full.get("ours"), None
    if rate:
        seconds = N_EPOCHS * (full["epoch_seconds"] + full["validation_seconds"])
    return {
        "ours": rate,
        "peer": EXPECTED_RATE,
        "ratio": rate and rate / EXPECTED_RATE,
        "unit": "rows/s",
        "twelve_epochs_seconds": seconds,
        "expected_seconds": EXPECTED_SECONDS,
        "ratio_to_plain": found.get("train", {}).get("ratio"),
        "scored_rows_per_second": found.get("score", {}).get("ours"),
        "parity": {name: found.get("parity", {}).get(name) for name in ("difference", "verdict")},
        "tests": found.get("tests") or None,
        "without_graph": any(result.get("warnings") for result in results.values()),
        "failed": [name for name, result in results.items() if not result["ok"]],
    }


def main() -> None:
    """Run all parts, and write their results."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="run only these parts")
    parser.add_argument("--rehearse", action="store_true", help="tiny data, on the CPU")
    chosen = parser.parse_args()
    import torch

    if not (torch.cuda.is_available() or chosen.rehearse):
        logger.info("no CUDA device: nothing was measured (--rehearse runs on the CPU)")
        final_line(name="gpu", ours=None, peer=EXPECTED_RATE, ratio=None, unit="rows/s")
        return
    device = device_name(torch.device("cpu" if chosen.rehearse else "cuda"))
    report: Result = {"device": device, "torch": torch.__version__, "rehearsal": chosen.rehearse}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        groups = part_groups(chosen.rehearse, Path(scratch) / "data")
        if chosen.parts:
            groups = only(groups, chosen.parts)
        run_all(groups, report, chosen.out)
    final_line(
        name="gpu",
        **summary(report["parts"]),
        device=device,
        rehearsal=chosen.rehearse,
        seconds=time.monotonic() - start,
    )


if __name__ == "__main__":
    main()

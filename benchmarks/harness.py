"""Runs the sides of a benchmark alternately, each in a process of its own, and compares them."""

import json
import resource
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any


def command_line(description: str | None, sides: Sequence[str], rounds: int) -> ArgumentParser:
    """Return the parser that benchmarks with sides share; `--side` is what `alternate` gives."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--side", choices=sides)
    return parser


def alternate(
    module: str, sides: Sequence[str], rounds: int, arguments: Sequence[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    """Run `python -m module --side SIDE` for each side in turn, `rounds` times.

    A side prints one JSON object as its last line; these are returned by side, in order. A side
    that fails ends the benchmark with its output.
    """
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            command = [sys.executable, "-m", module, "--side", side, *arguments]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode != 0:
                raise RuntimeError(f"{module} --side {side} failed:\n{process.stderr}")
            result = json.loads(process.stdout.strip().splitlines()[-1])
            results[side].append(result)
            print(f"round {number + 1} of {rounds}, {side}: {result}", file=sys.stderr, flush=True)
    return results


def medians(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each number over the rounds."""
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def peak_memory_mb() -> float:
    """Return the largest resident memory that this process had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def product_rate() -> float:
    """Return the operations per second of a product of 1,024 x 384 by 384 x 1,536 on the CPU.

    In the number format that the encoders choose there; the best of three trials.
    """
    import torch

    from mmctr_pipeline.encoders.precision import dtype_for

    dtype = dtype_for("auto", "cpu")
    x, weight = torch.randn(1024, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(200):
            torch.nn.functional.linear(x, weight)
        seconds.append(time.perf_counter() - start)
    # The first trial is there to warm up.
    return 200 * 2 * 1024 * 384 * 1536 / min(seconds[1:])


def final_line(**values: Any) -> None:
    """Print the line of JSON that every benchmark ends with."""
    line = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(line))

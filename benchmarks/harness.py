"""Runs the sides of a benchmark alternately, each in a process of its own, and compares them."""

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any

ALLOCATOR_SETTING = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""Lets glibc keep large blocks, where its default returns each to the system and clears it anew."""


def command_line(description: str | None, sides: Sequence[str], rounds: int) -> ArgumentParser:
    """Return the parser that benchmarks with sides share, and show log lines on standard error.

    `alternate` passes `--side`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--side", choices=sides)
    return parser


def alternate(
    module: str,
    sides: Sequence[str],
    rounds: int,
    arguments: Sequence[str] = (),
    environments: Mapping[str, Mapping[str, str]] | None = None,
    show_progress: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Run `python -m module --side SIDE` for each side in turn, `rounds` times.

    A side prints one JSON object as its last line; these are returned by side, in order. A side
    that fails ends the benchmark with its output. `environments` gives a side variables besides
    those of this process, from which the allocator's are then taken away. With `show_progress`
    what a side writes to standard error appears at once.
    """
    inherited = dict(os.environ)
    if environments is not None:
        inherited = {n: value for n, value in inherited.items() if n not in ALLOCATOR_SETTING}
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            command = [sys.executable, "-m", module, "--side", side, *arguments]
            process = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=None if show_progress else subprocess.PIPE,
                text=True,
                check=False,
                env={**inherited, **(environments or {}).get(side, {})},
            )
            if process.returncode != 0:
                raise RuntimeError(f"{module} --side {side} failed:\n{process.stderr or ''}")
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


def peaks(device: Any) -> dict[str, float]:
    """Return the peak memory of this process (its children's not counted), and of a GPU, in MB."""
    found = {"peak_mb": peak_memory_mb()}
    if device.type == "cuda":
        import torch

        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def device_name(device: Any) -> str:
    """Return what a `torch.device` is called: a GPU by its model."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def product_rate(precision: str = "auto", device: str = "cpu") -> float:
    """Return the operations per second of matrix products, the best of three trials.

    `precision` is float32, bfloat16, or auto: what the encoders choose on that device. The product
    is one of 1,024 x 384 by 384 x 1,536 on the CPU, and a larger one on a GPU, to fill it.
    """
    import torch

    from mmctr_pipeline.precision import dtype_for

    on_gpu = torch.device(device).type == "cuda"
    n_rows, n_in, n_out = (8192, 4096, 4096) if on_gpu else (1024, 384, 1536)
    dtype = dtype_for(precision, device)
    x = torch.randn(n_rows, n_in, dtype=dtype, device=device)
    weight = torch.randn(n_out, n_in, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(200):
            torch.nn.functional.linear(x, weight)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    # The first trial is there to warm up.
    return 200 * 2 * n_rows * n_in * n_out / min(seconds[1:])


def final_line(**values: Any) -> None:
    """Print the line of JSON that every benchmark ends with."""
    line = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps(line))

"""Run the sides of a benchmark (ours and its peers) in turn, each in its own process."""

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
"""Lets glibc reuse freed large blocks; by default the system maps and clears each new one."""


def command_line(description: str | None, sides: Sequence[str], rounds: int) -> ArgumentParser:
    """Return the parser of a benchmark with sides, and show log lines on standard error.

    `--side`, which `alternate` passes, runs only one side.
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
    """Run `python -m module --side SIDE` for each side in turn, and return the results by side.

    A side prints one JSON object as its last line. Raises `RuntimeError` if a side fails, with its
    standard error unless `show_progress` has already shown it.

    Parameters
    ----------
    module
        The benchmark.
    sides
        Sides to run in each round, in this order.
    rounds
        Number of rounds.
    arguments
        Further arguments for all sides.
    environments
        Environment variables to add for each side. If given, the sides do not inherit the
        allocator setting of this process.
    show_progress
        Whether the standard error of a side is shown while it runs.
    """
    inherited = dict(os.environ)
    if environments is not None:
        for name in ALLOCATOR_SETTING:
            inherited.pop(name, None)
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
    """Return the peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peaks(device: Any) -> dict[str, float]:
    """Return the peaks in MB of this process's memory, without children, and of GPU memory."""
    found = {"peak_mb": peak_memory_mb()}
    if device.type == "cuda":
        import torch

        found["gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


def device_name(device: Any) -> str:
    """Return the name of a `torch.device`: for a GPU its model, such as NVIDIA H200."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def product_rate(precision: str = "auto", device: str = "cpu") -> float:
    """Return the operations per second of matrix products, the best of three trials.

    `precision` is float32, bfloat16, or auto (the encoders' choice on that device). The product is
    1,024 x 384 by 384 x 1,536 on the CPU, and larger on a GPU, to use all of it.
    """
    import torch

    from mmctr_pipeline.precision import dtype_for

    on_gpu = torch.device(device).type == "cuda"
    n_rows, n_in, n_out = (8192, 4096, 4096) if on_gpu else (1024, 384, 1536)
    n_products = 200 if on_gpu else 50  # about a second on one core
    dtype = dtype_for(precision, device)
    x = torch.randn(n_rows, n_in, dtype=dtype, device=device)
    weight = torch.randn(n_out, n_in, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(n_products):
            torch.nn.functional.linear(x, weight)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    # The first trial is a warm-up.
    return n_products * 2 * n_rows * n_in * n_out / min(seconds[1:])


def final_line(**values: Any) -> None:
    """Print the line of JSON at the end of every benchmark."""
    line = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    print(json.dumps(line))


def report(faults: Sequence[str]) -> int:
    """Print each fault on standard error; return the exit status: 1 if there are any."""
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    return int(bool(faults))

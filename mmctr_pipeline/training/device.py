"""Which device to train on, and random state that belongs to it."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.environment import DeploymentError


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:N`.

    Raises `DeploymentError`, listing what this machine has, for any other name.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    if name == "auto":
        return torch.device("cuda:0" if "cuda" in available else "cpu")
    if name not in available:
        raise DeploymentError(
            f"unknown device {name!r}; this machine has: auto, {', '.join(available)} "
            "(set MMCTR_DEVICE)"
        )
    return torch.device("cuda:0" if name == "cuda" else name)


SMALL_BATCH = 256
"""Rows of a step that one core does sooner than two, which have to wake each other."""


@contextlib.contextmanager
def threads_for(batch_size: int) -> Iterator[None]:
    """Let torch use one CPU thread for steps of at most `SMALL_BATCH` rows, else as many as ever.

    The number of threads decides on the last digit of sums, so that it follows from the
    configuration alone and not from what else the machine does.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def derived_seed(*numbers: int) -> int:
    """Return a 64-bit seed that follows from `numbers` alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def set_seed(seed: int, device: torch.device) -> None:
    """Seed torch's global random state, on the CPU and on `device`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state, on the CPU and on `device`, and put it back afterwards."""
    # Only the device in use: asking CUDA for its state would start it where only the CPU is wanted.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        set_seed(seed, device)
        yield

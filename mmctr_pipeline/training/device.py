"""Training devices, and seeded random state on them."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from mmctr_pipeline.environment import DeploymentError

SMALL_BATCH = 256
"""Rows up to which one core is faster than two, which would have to wake each other."""


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises `DeploymentError` for any other name, listing the devices of this machine.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [f"cuda:{n}" for n in range(n_gpus)]
    known = {"auto": gpus[0] if gpus else "cpu", "cpu": "cpu"}
    if gpus:
        known |= {"cuda": gpus[0], **{gpu: gpu for gpu in gpus}}
    if name not in known:
        raise DeploymentError(
            f"unknown device {name!r}; this machine has: {', '.join(known)}. Fix: set MMCTR_DEVICE "
            "to one of these"
        )
    return torch.device(known[name])


@contextlib.contextmanager
def threads_for(batch_size: int) -> Iterator[None]:
    """Let torch use a single CPU thread for steps of at most `SMALL_BATCH` rows.

    The number of threads affects the last digit of sums, so it depends on the configuration alone
    and not on the load of the machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def derived_seed(*numbers: int) -> int:
    """Return a 64-bit seed that depends on `numbers` alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def set_seed(seed: int, device: torch.device) -> None:
    """Seed torch's global random state on the CPU and on `device`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state on the CPU and on `device`, and restore it afterwards."""
    # Only the device in use: reading CUDA's state would initialise CUDA in a CPU run.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        set_seed(seed, device)
        yield

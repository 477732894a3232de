"""Devices are found by name, and random state and number of threads are restored."""

import pytest
import torch

from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.training.device import SMALL_BATCH, resolve_device, seeded, threads_for

CPU = torch.device("cpu")


def test_cpu_and_auto_resolve_everywhere() -> None:
    assert resolve_device("cpu") == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "", "CPU"])
def test_unknown_devices_are_refused_with_a_list_of_devices(name: str) -> None:
    with pytest.raises(DeploymentError, match="this machine has: auto, cpu"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_is_refused_on_machines_without_it() -> None:
    with pytest.raises(DeploymentError, match="unknown device 'cuda'"):
        resolve_device("cuda")


def test_seeded_repeats_its_draws_and_restores_the_random_state() -> None:
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed, CPU):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_is_restored_after_an_error() -> None:
    def fail_after_drawing() -> None:
        with seeded(1, CPU):
            torch.rand(4)
            raise RuntimeError("planted")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="planted"):
        fail_after_drawing()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch_size", "inside"), [(SMALL_BATCH, 1), (SMALL_BATCH + 1, None)])
def test_small_batches_use_one_thread_and_the_number_of_threads_is_restored(
    batch_size: int, inside: int | None
) -> None:
    before = torch.get_num_threads()
    with threads_for(batch_size):
        assert torch.get_num_threads() == (inside or before)
    assert torch.get_num_threads() == before

"""Tests of what ranks exchange: shares of batches, scores, table rows and sums for normalisation.

The ranks of these tests are processes with torch's gloo backend on loopback.
"""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmctr_pipeline.models.layers.dense import Dice
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline.training.ranks import ALONE, Ranks
from mmctr_pipeline.training.synced_norm import synchronise

N_RANKS = 3


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Call each function of `ON_RANKS` in three processes; return what each rank returned."""
    folder = tmp_path_factory.mktemp("ranks")
    code = f"""
import pickle, sys
from torch import distributed
from mmctr_pipeline.training.ranks import Ranks
from mmctr_pipeline_tests.training.test_ranks import ON_RANKS
rank = int(sys.argv[1])
store = "file://{folder}/store"
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size={N_RANKS})
ranks = Ranks.of_process_group()
with open(f"{folder}/{{rank}}.pickle", "wb") as file:
    pickle.dump({{function.__name__: function(ranks) for function in ON_RANKS}}, file)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)]) for rank in range(N_RANKS)
    ]
    assert [process.wait(300) for process in processes] == [0] * N_RANKS
    found = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(N_RANKS)]
    return {name: [results[name] for results in found] for name in found[0]}


def test_shares_of_a_batch_are_equal_and_disjoint() -> None:
    order = torch.randperm(103)
    shares = [Ranks(rank, 3).divided(order, 12) for rank in range(3)]
    assert {size for _, size in shares} == {4}
    split = [share.split(4) for share, _ in shares]
    for number, batch in enumerate(order[:102].split(12)):
        rows = torch.cat([batches[number] for batches in split])
        assert len({len(batches[number]) for batches in split}) == 1
        assert sorted(rows.tolist()) == sorted(batch.tolist())


def test_a_single_rank_gets_every_batch_as_it_is() -> None:
    order = torch.randperm(103)
    share, size = ALONE.divided(order, 12)
    assert size == 12
    assert torch.equal(share, order)


def joined_scores(ranks: Ranks) -> np.ndarray:
    scores = np.arange(100, dtype=np.float32)
    return ranks.joined(scores[ranks.block(100)], 100)


def test_scores_of_all_blocks_are_joined_in_order(on_ranks: dict[str, list[Any]]) -> None:
    for scores in on_ranks["joined_scores"]:
        assert scores.tolist() == list(range(100))


def exchanged_rows(ranks: Ranks) -> list[list[tuple[list[int], list[list[float]]]]]:
    """Send two tables: the first with as many rows as the rank's number, the second with one."""
    number = ranks.number
    first = torch.arange(number), torch.full((number, 2), float(number))
    second = torch.tensor([7]), torch.full((1, 3), 10.0 * number)
    found = ranks.all_rows([first, second])
    return [[(rows.tolist(), grads.tolist()) for rows, grads in table] for table in found]


def test_every_rank_gets_the_table_rows_of_all_ranks(on_ranks: dict[str, list[Any]]) -> None:
    expected = [
        [([], []), ([0], [[1.0, 1.0]]), ([0, 1], [[2.0, 2.0], [2.0, 2.0]])],
        [([7], [[10.0 * number] * 3]) for number in range(N_RANKS)],
    ]
    assert on_ranks["exchanged_rows"] == [expected] * N_RANKS


def norm_layers() -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), Dice(5), nn.Linear(5, 1))
    layers[2].alpha_D.data += 0.3
    return layers.double()


def norm_input() -> torch.Tensor:
    return torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def synced_gradients(ranks: Ranks) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return gradients and state after a backward pass on this rank's share of the input."""
    layers = norm_layers()
    synchronise(layers, ranks)
    replica = ranks.replicated(layers, set())
    replica(norm_input()[ranks.number :: ranks.count]).square().mean().backward()
    gradients = {
        name: p.grad.numpy() for name, p in layers.named_parameters() if p.grad is not None
    }
    return gradients, {name: tensor.numpy() for name, tensor in layers.state_dict().items()}


def test_synced_norms_have_the_gradients_and_statistics_of_one_process(
    on_ranks: dict[str, list[Any]],
) -> None:
    """Without synchronisation, each rank would normalise by the four rows of its own share."""
    layers = norm_layers()
    layers(norm_input()).square().mean().backward()
    for gradients, state in on_ranks["synced_gradients"]:
        for name, parameter in layers.named_parameters():
            assert parameter.grad is not None
            np.testing.assert_allclose(gradients[name], parameter.grad, atol=1e-12, err_msg=name)
        for name, tensor in layers.state_dict().items():
            np.testing.assert_allclose(state[name], tensor, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3),
        nn.BatchNorm1d(3, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
    ],
)
def test_a_norm_that_cannot_be_synchronised_is_refused(norm: nn.Module) -> None:
    with pytest.raises(SettingsError, match=rf"Sequential\.0 is a {type(norm).__name__}"):
        synchronise(nn.Sequential(norm), Ranks(0, 2))


def test_a_batch_norm_over_more_dimensions_is_refused() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    synchronise(module, Ranks(0, 2))
    with pytest.raises(SettingsError, match=r"shape \(4, 3, 5\)"):
        module(torch.zeros(4, 3, 5))


def digests(ranks: Ranks) -> list[str]:
    layer = nn.Linear(3, 2)
    found = []
    for seed in (1, 1 + ranks.number):
        nn.init.constant_(layer.weight, seed)
        nn.init.zeros_(layer.bias)
        try:
            found.append(ranks.digest(layer))
        except RuntimeError as error:
            found.append(str(error))
    return found


def test_ranks_with_other_weights_are_found(on_ranks: dict[str, list[Any]]) -> None:
    equal, different = zip(*on_ranks["digests"], strict=True)
    assert len(set(equal)) == 1
    assert len(equal[0]) == 64
    for message in different:
        assert message.startswith("the weights of 3 ranks differ: ")


def agreed_values(ranks: Ranks) -> tuple[str, float]:
    return ranks.agreed(f"rank {ranks.number}"), float(
        ranks.mean(torch.tensor(float(ranks.number)))
    )


def test_the_first_rank_decides_and_means_are_equal(on_ranks: dict[str, list[Any]]) -> None:
    assert on_ranks["agreed_values"] == [("rank 0", 1.0)] * N_RANKS


ON_RANKS = (joined_scores, exchanged_rows, synced_gradients, digests, agreed_values)

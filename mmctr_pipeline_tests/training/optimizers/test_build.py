"""The optimisers of a module: recipe A's groups, the formulas, clipping over everything."""

import copy

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers, build_optimizers
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL

OPTIMIZERS = ["row_adamw", "adamw", "adam"]


class TwoTables(nn.Module):
    """Two tables, one looked up twice, and a linear layer of the other group."""

    def __init__(self) -> None:
        super().__init__()
        self.users = EmbeddingTable(10, 3)
        self.items = EmbeddingTable(10, 3)
        self.output = nn.Linear(9, 1)

    def forward(self, ids_B3: torch.Tensor) -> torch.Tensor:
        user, item, other = ids_B3.unbind(1)
        return self.output(torch.cat([self.users(user), self.items(item), self.items(other)], 1))


def built(optimizer: str) -> tuple[TwoTables, Optimizers]:
    torch.manual_seed(0)
    module = TwoTables()
    groups = {
        "main": [module.users.weight, module.items.weight],
        "multimodal": list(module.output.parameters()),
    }
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.1, multimodal_weight_decay=0.3)
    return module, build_optimizers(module, groups, config)


def large_gradients(module: TwoTables, optimizers: Optimizers, ids_B3: list[list[int]]) -> None:
    optimizers.zero_grad()
    (module(torch.tensor(ids_B3)) * 50).square().sum().backward()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_recipe_a_has_two_groups_with_their_own_rate_and_decay(optimizer: str) -> None:
    model = build_model(SMALL_MODEL, FeatureSpec(n_users=9, n_items=9, vector_dim=4))
    optimizers = build_optimizers(
        model, model.parameter_groups(), TrainingConfig(optimizer=optimizer)
    )
    groups = [group for member in optimizers.members for group in member.param_groups]
    of = {"main": (2e-3, 1e-4), "multimodal": (5e-4, 1e-5)}
    assert {group["name"] for group in groups} == set(of)
    for group in groups:
        assert (group["lr"], group["weight_decay"]) == of[group["name"]]
    taken = [p for group in groups for p in group["params"]]
    assert len(taken) == len({id(p) for p in taken}) == len(list(model.parameters()))
    multimodal = {id(p) for g in groups if g["name"] == "multimodal" for p in g["params"]}
    assert multimodal == {id(p) for p in model.multimodal.parameters()}  # type: ignore[attr-defined]
    assert optimizers.learning_rate == 2e-3


def test_tables_are_served_by_row_adamw_alone() -> None:
    for name in OPTIMIZERS:
        module, optimizers = built(name)
        assert (module.users.server is not None) == (name == "row_adamw")
        optimizers.release()
        assert module.users.server is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_follow_the_formula(optimizer: str) -> None:
    """AdamW with decoupled decay, Adam with the decay in the gradient."""
    torch.manual_seed(0)
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.1, multimodal_weight_decay=0.3)
    module = nn.ParameterDict({name: torch.randn(5) for name in ("main", "multimodal")})
    expected = {name: weight.detach().double() for name, weight in module.items()}
    rates = {"main": (2e-3, 0.1), "multimodal": (5e-4, 0.3)}
    first = {name: torch.zeros(5).double() for name in module}
    second = {name: torch.zeros(5).double() for name in module}
    optimizers = build_optimizers(module, {n: [w] for n, w in module.items()}, config)
    for step in range(1, 6):
        for name, weight in module.items():
            weight.grad = torch.randn(5)
            rate, decay = rates[name]
            gradient = weight.grad.double()
            if optimizer == "adam":
                gradient, decay = gradient + decay * expected[name], 0.0
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            expected[name] = expected[name] * (1 - rate * decay) - rate * mean / (
                square.sqrt() + 1e-8
            )
        optimizers.step()
        optimizers.count_step()
    for name, weight in module.items():
        assert (weight.detach().double() - expected[name]).abs().max() < 1e-6


def test_row_adamw_trains_a_module_as_adamw_does() -> None:
    generator = torch.Generator().manual_seed(2)
    ids_SB3 = torch.randint(1, 10, (80, 4, 3), generator=generator)
    ids_SB3[:, :, 0] = ids_SB3[:, :, 0] % 3  # users 3 to 9 are never seen, padding is
    modules = []
    for name in ("row_adamw", "adamw"):
        module, optimizers = built(name)
        for ids_B3 in ids_SB3:
            optimizers.zero_grad()
            module(ids_B3).square().mean().backward()
            optimizers.step()
            optimizers.count_step()
        optimizers.flush()
        modules.append(module)
    for ours, dense in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.allclose(ours, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "ids_B3",
    [
        pytest.param([[1, 2, 3], [1, 3, 9], [4, 2, 3]], id="distinct look-ups share rows"),
        pytest.param([[1, 2, 0], [0, 3, 9]], id="padding has no gradient"),
    ],
)
def test_gradients_are_clipped_by_the_norm_of_all_of_them(ids_B3: list[list[int]]) -> None:
    plain, plain_optimizers = built("adamw")
    large_gradients(plain, plain_optimizers, ids_B3)
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 10
    module, optimizers = built("row_adamw")
    large_gradients(module, optimizers, ids_B3)
    optimizers.clip(0.7)
    for ours, dense in zip(module.output.parameters(), plain.output.parameters(), strict=True):
        assert ours.grad is not None
        assert dense.grad is not None
        assert torch.allclose(ours.grad, dense.grad * 0.7 / norm, rtol=1e-5)
    # The rows are scaled as well: a step on them is that of dense AdamW.
    plain_optimizers.clip(0.7)
    for each in (optimizers, plain_optimizers):
        each.step()
        each.count_step()
        each.flush()
    assert torch.allclose(module.items.weight, plain.items.weight, atol=1e-6)


def test_small_gradients_are_not_clipped() -> None:
    module, optimizers = built("row_adamw")
    large_gradients(module, optimizers, [[1, 2, 3]])
    before = module.output.weight.grad.clone()  # type: ignore[union-attr]
    optimizers.clip(1e9)
    assert torch.equal(module.output.weight.grad, before)


def test_a_state_goes_to_optimisers_built_alike() -> None:
    module, optimizers = built("row_adamw")
    large_gradients(module, optimizers, [[1, 2, 3]])
    optimizers.step()
    optimizers.count_step()
    optimizers.flush()
    state = copy.deepcopy(optimizers.state_dict())
    other, other_optimizers = built("row_adamw")
    other.load_state_dict(module.state_dict())
    other_optimizers.load_state_dict(state)
    for each, of_each in ((module, optimizers), (other, other_optimizers)):
        large_gradients(each, of_each, [[1, 5, 3]])
        of_each.step()
        of_each.count_step()
        of_each.flush()
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_group_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="no learning rate for parameter group tables"):
        build_optimizers(nn.ParameterList([weight]), {"tables": [weight]}, TrainingConfig())


def test_two_tables_of_one_weight_are_refused() -> None:
    module = TwoTables()
    module.items.weight = module.users.weight
    groups = {"main": list(module.parameters())}
    with pytest.raises(ValueError, match="two embedding tables share one weight"):
        build_optimizers(module, groups, TrainingConfig())


def test_a_gradient_that_bypasses_the_look_ups_is_refused() -> None:
    module, optimizers = built("row_adamw")
    optimizers.zero_grad()
    module.items.weight.square().sum().backward()
    with pytest.raises(RuntimeError, match="past its look-ups"):
        optimizers.clip(1.0)

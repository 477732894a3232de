"""The optimisers of a module have recipe A's groups, follow their formulas, and clip together."""

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.improved_mmctr import ImprovedMmctr
from mmctr_pipeline.models.layers.embedding import EmbeddingTable
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers.build import Optimizers
from mmctr_pipeline_tests.training.optimizers.dense_adamw import adam_step
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL

Name = Literal["row_adamw", "adamw", "adam"]
NAMES: list[Name] = ["row_adamw", "adamw", "adam"]


class TwoTables(nn.Module):
    """Two tables, one of them looked up twice, and a linear layer in another group."""

    def __init__(self) -> None:
        super().__init__()
        self.users = EmbeddingTable(10, 3)
        self.items = EmbeddingTable(10, 3)
        self.output = nn.Linear(9, 1)

    def forward(self, ids_B3: torch.Tensor) -> torch.Tensor:
        user, item, other = ids_B3.unbind(1)
        return self.output(torch.cat([self.users(user), self.items(item), self.items(other)], 1))


def build(name: Name) -> tuple[TwoTables, Optimizers]:
    torch.manual_seed(0)
    module = TwoTables()
    groups = {
        "main": [module.users.weight, module.items.weight],
        "multimodal": list(module.output.parameters()),
    }
    config = TrainingConfig(optimizer=name, weight_decay=0.1, multimodal_weight_decay=0.3)
    return module, Optimizers(module, groups, config)


def large_gradients(module: TwoTables, optimizers: Optimizers, ids_B3: list[list[int]]) -> None:
    optimizers.zero_grad()
    (module(torch.tensor(ids_B3)) * 50).square().sum().backward()


def step(optimizers: Optimizers) -> None:
    optimizers.step()
    optimizers.count_step()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_a_has_two_groups_with_their_own_rate_and_decay(name: Name) -> None:
    model = ImprovedMmctr(SMALL_MODEL, FeatureSpec(n_users=9, n_items=9, vector_dim=4))
    optimizers = Optimizers(model, model.parameter_groups(), TrainingConfig(optimizer=name))
    groups = [group for member in optimizers.members for group in member.param_groups]
    expected = {"main": (2e-3, 1e-4), "multimodal": (5e-4, 1e-5)}
    assert {group["name"] for group in groups} == set(expected)
    for group in groups:
        assert (group["lr"], group["weight_decay"]) == expected[group["name"]]
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(model.parameters()))
    multimodal = {id(p) for g in groups if g["name"] == "multimodal" for p in g["params"]}
    assert multimodal == {id(p) for p in model.multimodal.parameters()}
    assert optimizers.learning_rate == 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_only_row_adamw_serves_tables(name: Name) -> None:
    module, optimizers = build(name)
    assert (module.users.server is not None) == (name == "row_adamw")
    optimizers.release()
    assert module.users.server is None


@pytest.mark.parametrize("name", NAMES)
def test_steps_follow_the_formula(name: Name) -> None:
    """AdamW with decoupled decay, Adam with the decay in the gradient."""
    torch.manual_seed(0)
    config = TrainingConfig(optimizer=name, weight_decay=0.1, multimodal_weight_decay=0.3)
    module = nn.ParameterDict({name: torch.randn(5) for name in ("main", "multimodal")})
    optimizers = Optimizers(module, {n: [weight] for n, weight in module.items()}, config)
    rates = {"main": (2e-3, 0.1), "multimodal": (5e-4, 0.3)}
    expected = {
        name: (weight.detach().double(), torch.zeros(5).double(), torch.zeros(5).double())
        for name, weight in module.items()
    }
    for n_steps in range(1, 6):
        for group, weight in module.items():
            weight.grad = torch.randn(5)
            rate, decay = rates[group]
            gradient = weight.grad.double()
            if name == "adam":
                gradient, decay = gradient + decay * expected[group][0], 0.0
            expected[group] = adam_step(*expected[group], gradient, n_steps, rate, decay)
        step(optimizers)
    for group, weight in module.items():
        assert (weight.detach().double() - expected[group][0]).abs().max() < 1e-6


def test_row_adamw_trains_a_module_as_adamw_does() -> None:
    generator = torch.Generator().manual_seed(2)
    ids_SB3 = torch.randint(1, 10, (80, 4, 3), generator=generator)
    ids_SB3[:, :, 0] = ids_SB3[:, :, 0] % 3  # users 3 to 9 never occur, padding does
    modules = []
    for name in NAMES[:2]:
        module, optimizers = build(name)
        for ids_B3 in ids_SB3:
            optimizers.zero_grad()
            module(ids_B3).square().mean().backward()
            step(optimizers)
        modules.append(module.eval())
    for ours, dense in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.allclose(ours, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "ids_B3",
    [
        pytest.param([[1, 2, 3], [1, 3, 9], [4, 2, 3]], id="distinct look-ups share rows"),
        pytest.param([[1, 2, 0], [0, 3, 9]], id="padding has no gradient"),
    ],
)
def test_gradients_are_clipped_by_their_joint_norm(ids_B3: list[list[int]]) -> None:
    plain, plain_optimizers = build("adamw")
    large_gradients(plain, plain_optimizers, ids_B3)
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 10
    module, optimizers = build("row_adamw")
    large_gradients(module, optimizers, ids_B3)
    optimizers.clip(0.7)
    for ours, dense in zip(module.output.parameters(), plain.output.parameters(), strict=True):
        assert ours.grad is not None
        assert dense.grad is not None
        assert torch.allclose(ours.grad, dense.grad * 0.7 / norm, rtol=1e-5)
    # The rows are scaled too: a step moves them as under dense AdamW.
    plain_optimizers.clip(0.7)
    step(optimizers)
    step(plain_optimizers)
    assert torch.allclose(module.eval().items.weight, plain.items.weight, atol=1e-6)


def test_small_gradients_are_not_clipped() -> None:
    module, optimizers = build("row_adamw")
    large_gradients(module, optimizers, [[1, 2, 3]])
    grad = module.output.weight.grad
    assert grad is not None
    before = grad.clone()
    optimizers.clip(1e9)
    assert torch.equal(grad, before)


def test_a_state_moves_to_other_optimisers_of_the_same_kind() -> None:
    module, optimizers = build("row_adamw")
    large_gradients(module, optimizers, [[1, 2, 3]])
    step(optimizers)
    other, other_optimizers = build("row_adamw")
    other.load_state_dict(module.state_dict())
    other_optimizers.load_state_dict(copy.deepcopy(optimizers.state_dict()))
    for one, its_optimizers in ((module, optimizers), (other, other_optimizers)):
        large_gradients(one, its_optimizers, [[1, 5, 3]])
        step(its_optimizers)
        one.eval()
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_group_is_an_error() -> None:
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match="no learning rate for parameter group tables"):
        Optimizers(nn.ParameterList([weight]), {"tables": [weight]}, TrainingConfig())


def test_two_tables_with_one_weight_are_an_error() -> None:
    module = TwoTables()
    module.items.weight = module.users.weight
    groups = {"main": list(module.parameters())}
    with pytest.raises(ValueError, match="two embedding tables share one weight"):
        Optimizers(module, groups, TrainingConfig())


def test_a_gradient_without_a_look_up_is_an_error() -> None:
    module, optimizers = build("row_adamw")
    optimizers.zero_grad()
    module.items.weight.square().sum().backward()
    with pytest.raises(RuntimeError, match="a gradient that did not come from a look-up"):
        optimizers.clip(1.0)

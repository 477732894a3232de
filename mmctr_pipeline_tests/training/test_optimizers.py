"""The optimiser against recipe A's groups and AdamW's formula."""

import pytest
import torch
from torch import nn

from mmctr_pipeline.models.registry import build_model
from mmctr_pipeline.models.spec import FeatureSpec
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.optimizers import build_optimizer
from mmctr_pipeline_tests.training.small_world import SMALL_MODEL


def test_recipe_a_has_two_groups_with_their_own_rate_and_decay() -> None:
    model = build_model(SMALL_MODEL, FeatureSpec(n_users=9, n_items=9, vector_dim=4))
    optimizer = build_optimizer(model.parameter_groups(), TrainingConfig())
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert set(groups) == {"main", "multimodal"}
    assert (groups["main"]["lr"], groups["main"]["weight_decay"]) == (2e-3, 1e-4)
    assert (groups["multimodal"]["lr"], groups["multimodal"]["weight_decay"]) == (5e-4, 1e-5)
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters())
    in_multimodal = {id(p) for p in groups["multimodal"]["params"]}
    assert in_multimodal == {id(p) for p in model.multimodal.parameters()}  # type: ignore[attr-defined]


def test_steps_follow_adamw_with_decoupled_decay() -> None:
    torch.manual_seed(0)
    config = TrainingConfig(weight_decay=0.1, multimodal_weight_decay=0.3)
    weights = {"main": nn.Parameter(torch.randn(5)), "multimodal": nn.Parameter(torch.randn(5))}
    expected = {name: weight.detach().double() for name, weight in weights.items()}
    rates = {"main": (2e-3, 0.1), "multimodal": (5e-4, 0.3)}
    first = {name: torch.zeros(5).double() for name in weights}
    second = {name: torch.zeros(5).double() for name in weights}
    optimizer = build_optimizer({name: [weight] for name, weight in weights.items()}, config)
    for step in range(1, 6):
        for name, weight in weights.items():
            weight.grad = torch.randn(5)
            rate, decay = rates[name]
            gradient = weight.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            expected[name] = expected[name] * (1 - rate * decay) - rate * mean / (
                square.sqrt() + 1e-8
            )
        optimizer.step()
    for name, weight in weights.items():
        assert (weight.detach().double() - expected[name]).abs().max() < 1e-6


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="no learning rate for parameter group tables"):
        build_optimizer({"tables": [nn.Parameter(torch.zeros(1))]}, TrainingConfig())

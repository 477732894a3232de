"""DIN equals its plain form in float64 with the same weights."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.models.din import Din
from mmctr_pipeline_tests.models.plain_din import plain_din_logits, plain_item_features
from mmctr_pipeline_tests.models.zoo import (
    FEATURES,
    SPEC,
    random_batch,
    random_items,
    random_train_rows,
)


def random_din(config: DinConfig, batch: Batch) -> Din:
    """Return a fitted DIN in float64 and evaluation mode, with random weights and statistics."""
    model = Din(config, SPEC)
    model.fit_statistics(batch.items, *random_train_rows())
    model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name or isinstance(tensor, torch.nn.Parameter):
                tensor.normal_(0, 0.7)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Embedding) and layer.padding_idx is not None:
                layer.weight[0] = 0
    return model


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_din_equals_its_plain_form(activation: str, softmax: bool) -> None:
    torch.manual_seed(6)
    config = DinConfig(
        features=FEATURES,
        attention_hidden_dims=(8, 4),
        attention_activation=activation,
        attention_softmax=softmax,
        hidden_dims=(16, 8),
    )
    batch = random_batch(24, random_items())
    model = random_din(config, batch)
    plain_B = plain_din_logits(
        model,
        batch,
        lambda ids: plain_item_features(model.features, batch.items, ids),
        activation,
        softmax,
    )
    assert plain_B.std() > 0.1
    torch.testing.assert_close(model(batch), plain_B, atol=1e-9, rtol=1e-9)
    with_other_histories = dataclasses.replace(batch, history_T=batch.history_T % 20 + 1)
    assert (model(with_other_histories) - plain_B).abs().max() > 0.1


def test_tables_and_vector_matrices_form_their_own_parameter_group() -> None:
    features = dataclasses.replace(FEATURES, vector_projection=True)
    model = Din(DinConfig(features=features, hidden_dims=(8,)), SPEC)
    groups = model.parameter_groups()
    assert set(groups) == {"main", "embedding"}
    features = model.features.parameters()
    assert {id(p) for p in groups["embedding"]} == {id(p) for p in features}
    assert sum(map(len, groups.values())) == len(list(model.parameters()))

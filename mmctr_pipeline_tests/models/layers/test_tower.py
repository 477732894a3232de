"""The tower of hidden layers."""

from torch import nn

from mmctr_pipeline.models.layers.dropout import Dropout
from mmctr_pipeline.models.layers.tower import tower


def test_tower_is_linear_norm_relu_dropout_and_a_last_linear() -> None:
    kinds = [type(layer) for layer in tower(9, (8, 4), 0.3)]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert kinds == [*hidden, *hidden, nn.Linear]

"""How the models of the zoo begin."""

from torch import nn


def initialise(module: nn.Module) -> None:
    """Give tables small normal rows, linear layers Xavier-normal weights and zero biases.

    These are FuxiCTR's defaults (rows of deviation 1e-4, `xavier_normal_`), under which the
    published results were had.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=1e-4)
            if layer.padding_idx is not None:
                nn.init.zeros_(layer.weight[layer.padding_idx])
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

"""Train DIN: ours against a plain, padded form with FuxiCTR's layers.

    python -m benchmarks.din [--rows N] [--rounds N] [--batch-size N] [--device D] [--data FOLDER]

Both sides are the preset `din`, which reads the newest 64 items of a history, with two changes. The
attention has ReLU, since in the plain form the preset's Dice would also normalise over padding.
Batches have 4,096 rows, since the plain form needs about twice the memory for the preset's 8,192.
Both sides start from the same weights and have the same features, network, dropout, loss, Adam with
L2 in the gradient, clipping and batch size.

The plain form pads histories to 64, embeds and attends to all 64 positions with FuxiCTR's
`DIN_Attention` (which copies the target to each position), `MaskedAveragePooling` and `MLP_Block`,
and computes in float32. Ours omits padding, embeds each distinct item of a batch once and computes
the target's part of the attention once per row. It is measured in the precision that `auto` selects
(`ours`) and in float32 (`ours_float32`). `benchmarks/model_speed.py` describes the measurement.
Needs the `bench` extra.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.model_speed import Comparison, n_weights, run
from benchmarks.plain_models import PlainFeatures
from benchmarks.plain_recipe import Row
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.models.din import Din


class PlainDin(nn.Module):
    """DIN with FuxiCTR's attention and tower, on the plain forms' shared features."""

    def __init__(self, config: DinConfig, ours: Din, items: ItemFeatures) -> None:
        super().__init__()
        from fuxictr.pytorch.layers import DIN_Attention, MLP_Block

        self.features = PlainFeatures(ours.features, items)
        self.attention = DIN_Attention(
            ours.features.item_dim,
            attention_units=list(config.attention_hidden_dims),
            hidden_activations=config.attention_activation,
            dropout_rate=config.attention_dropout,
            use_softmax=config.attention_softmax,
        )
        self.tower = MLP_Block(
            input_dim=2 * ours.features.item_dim + ours.features.context_dim,
            output_dim=1,
            hidden_units=list(config.hidden_dims),
            hidden_activations="ReLU",
            dropout_rates=config.dropout,
            batch_norm=True,
        )

    def forward(self, rows: Row) -> torch.Tensor:
        """Return logits `(B,)`."""
        target_BD, history_BLD, is_real_BL, context_BC = self.features(rows)
        interest_BD = self.attention(target_BD, history_BLD, is_real_BL)
        return self.tower(torch.cat([target_BD, interest_BD, context_BC], dim=1)).squeeze(1)


def operations_per_row(model: Din, length_N: np.ndarray) -> float:
    """Return the multiplications and additions for training on an average row.

    The backward pass costs twice the forward pass. Each row passes the tower, and its target passes
    the first layer of the attention. Each history position passes that layer twice: with the key,
    and with the product of key and target. The weights for the difference of key and target are
    merged into the other weights beforehand, so they cost nothing. Then the position passes the
    later layers and the weighted sum.
    """
    dim, first = model.features.item_dim, model.attention.first
    query_weights = dim * first.out_features
    per_position = n_weights(model.attention) - 2 * query_weights + dim
    per_row = n_weights(model.tower) + query_weights
    return 3 * 2 * (per_row + float(length_N.mean()) * per_position)


DIN = Comparison(
    "din",
    "din",
    PlainDin,
    operations_per_row,
    n_rows=24_576,
    batch_size=4_096,
    changes={"attention_activation": "relu"},
)

if __name__ == "__main__":
    run(DIN, __doc__)

"""Train Transformer_DCN: ours against a plain, padded form with layers of torch and FuxiCTR.

    python -m benchmarks.transformer_dcn [--rows N] [--rounds N] [--batch-size N] [--device D]
                                         [--data FOLDER]

Both sides are the preset `transformer_dcn_momo` with the newest 64 items of a history and batches
of 512. With the preset's 128, both sides would spend most of their time on Adam's update of 268
million weights. Both start from the same weights and have the same features, network, dropout,
loss, Adam, clipping and batch size.

The plain form pads histories to 64 and runs `nn.TransformerEncoder` over all 64 positions, then
FuxiCTR's `CrossNetV2` and `MLP_Block` over all 16 kept positions, in float32. Ours omits padding,
embeds each distinct item of a batch once and, on CPUs, multiplies only by the kept positions that
exist. It is measured in the precision that `auto` selects (`ours`) and in float32
(`ours_float32`). `benchmarks/model_speed.py` describes the measurement. Needs the `bench` extra.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.model_speed import Comparison, n_weights, run
from benchmarks.plain_models import PlainFeatures
from benchmarks.plain_recipe import Row
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.transformer_dcn import TransformerDcn


class PlainTransformerDcn(nn.Module):
    """A transformer over padded pairs of history item and target; then cross network and tower."""

    def __init__(
        self, config: TransformerDcnConfig, ours: TransformerDcn, items: ItemFeatures
    ) -> None:
        super().__init__()
        from fuxictr.pytorch.layers import CrossNetV2, MLP_Block

        self.features = PlainFeatures(ours.features, items)
        item_dim, context_dim = ours.features.item_dim, ours.features.context_dim
        pair_dim = 2 * item_dim
        layer = nn.TransformerEncoderLayer(
            pair_dim,
            config.n_heads,
            config.feed_forward_dim,
            config.transformer_dropout,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.transformer_layers, enable_nested_tensor=False
        )
        self.pooled = nn.Linear(pair_dim, pair_dim)
        input_dim = (config.kept_positions + 1) * pair_dim + item_dim + context_dim
        self.cross = CrossNetV2(input_dim, config.cross_layers)
        self.deep = MLP_Block(
            input_dim=input_dim,
            hidden_units=list(config.hidden_dims),
            dropout_rates=config.dropout,
        )
        self.head = MLP_Block(
            input_dim=config.hidden_dims[-1] + input_dim,
            hidden_units=list(config.head_hidden_dims),
            output_dim=1,
        )
        self._kept_positions = config.kept_positions

    def forward(self, rows: Row) -> torch.Tensor:
        """Return logits `(B,)`."""
        target_BD, history_BLD, is_real_BL, context_BC = self.features(rows)
        target_BLD = target_BD.unsqueeze(1).expand_as(history_BLD)
        pair_BLD = torch.cat([history_BLD, target_BLD], dim=2)
        hidden_BL = ~is_real_BL
        # Attention over no position would give NaN, so an empty history may read its last position.
        # In any other history, the last position holds the newest item.
        hidden_BL[:, -1] = False
        encoded_BLD = self.encoder(pair_BLD, src_key_padding_mask=hidden_BL)

        is_padding_BL1 = ~is_real_BL.unsqueeze(2)
        newest_BKD = encoded_BLD.masked_fill(is_padding_BL1, 0.0)[:, -self._kept_positions :]
        top_BD = encoded_BLD.masked_fill(is_padding_BL1, -1e9).amax(1)
        top_BD = torch.where(is_real_BL.any(1, keepdim=True), top_BD, 0.0)
        parts = [newest_BKD.flatten(1), self.pooled(top_BD), target_BD, context_BC]
        input_BF = torch.cat(parts, dim=1)
        joined_BF = torch.cat([self.deep(input_BF), self.cross(input_BF)], dim=1)
        return self.head(joined_BF).squeeze(1)


def operations_per_row(model: TransformerDcn, length_N: np.ndarray) -> float:
    """Return the multiplications and additions for training on an average row.

    The backward pass costs twice the forward pass. A position is multiplied by the matrices of the
    encoder, and attends to every position of its row. The networks read a row's kept positions and
    its other features, together `width_N` numbers; positions that do not exist cost nothing. Each
    matrix of the cross network takes `width_N` squared multiplications. The first layers of tower
    and head take `width_N` for each of their outputs. Everything else is counted in full.
    """
    pair_dim, input_dim = model.pooled.in_features, model.deep_first.in_features
    always_dim = pair_dim + model.features.item_dim + model.features.context_dim
    n_kept = (input_dim - always_dim) // pair_dim
    length_N = length_N.astype(np.float64)
    width_N = always_dim + pair_dim * np.minimum(length_N, n_kept)
    per_column = model.deep_first.out_features + model.head_first.out_features
    networks_N = len(model.cross.layers) * width_N**2 + per_column * width_N
    deep_dim = model.head_first.in_features - input_dim
    in_full = n_weights(model.pooled, model.deep, model.head, model.logit)
    in_full += deep_dim * model.head_first.out_features
    attention_N = 2 * pair_dim * len(model.encoder.layers) * length_N**2
    encoder_N = n_weights(model.encoder) * length_N + attention_N
    return 3 * 2 * float((networks_N + encoder_N).mean() + in_full)


TRANSFORMER_DCN = Comparison(
    "transformer_dcn",
    "transformer_dcn_momo",
    PlainTransformerDcn,
    operations_per_row,
    n_rows=1_024,
    batch_size=512,
)

if __name__ == "__main__":
    run(TRANSFORMER_DCN, __doc__)

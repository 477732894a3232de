"""DIN assembled from FuxiCTR's own layers, which `din_parity` compares with; needs `fuxictr`."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.models.din import Din
from mmctr_pipeline.training.batches import BatchSource
from mmctr_pipeline.training.config import TrainingConfig


class FuxiDin(nn.Module):
    """DIN of FuxiCTR's `DIN_Attention`, `MaskedAveragePooling` and `MLP_Block`, padded.

    `vectors_IV` are standardised item vectors and `tags_IK` tags filled up with 0, row i being
    item i.
    """

    vectors_IV: torch.Tensor
    tags_IK: torch.Tensor

    def __init__(
        self, config: DinConfig, n_tags: int, vectors_IV: torch.Tensor, tags_IK: torch.Tensor
    ) -> None:
        super().__init__()
        from fuxictr.pytorch.layers import DIN_Attention, MaskedAveragePooling, MLP_Block

        features = config.features
        dim, level_dim = features.embedding_dim, features.level_embedding_dim
        item_dim = 2 * dim + vectors_IV.shape[1]
        self.item_id = nn.Embedding(len(vectors_IV), dim, padding_idx=0)
        self.tags = nn.Embedding(n_tags, dim, padding_idx=0)
        self.likes = nn.Embedding(11, level_dim)
        self.views = nn.Embedding(11, level_dim)
        self.mean = MaskedAveragePooling()
        self.attention = DIN_Attention(
            item_dim,
            attention_units=list(config.attention_hidden_dims),
            hidden_activations=config.attention_activation,
            dropout_rate=config.attention_dropout,
            use_softmax=config.attention_softmax,
        )
        self.tower = MLP_Block(
            input_dim=2 * item_dim + 2 * level_dim,
            output_dim=1,
            hidden_units=list(config.hidden_dims),
            hidden_activations="ReLU",
            dropout_rates=config.dropout,
            batch_norm=True,
        )
        self.register_buffer("vectors_IV", vectors_IV, persistent=False)
        self.register_buffer("tags_IK", tags_IK, persistent=False)
        self._width = features.max_history

    @torch.no_grad()
    def load_ours(self, ours: Din) -> None:
        """Take the weights of ours; the unknown row goes to each item that train does not hold.

        Raises `ValueError` where Dice stands in the attention, whose weights are not taken over.
        """
        if _layers(self.attention, nn.BatchNorm1d):
            raise ValueError("the weights of Dice are not taken over; use relu in the attention")
        features = ours.features
        unknown_D = features.item_id.weight[-1]
        known_I1 = features.known_items_I.unsqueeze(1)
        self.item_id.weight.copy_(torch.where(known_I1, features.item_id.weight[:-1], unknown_D))
        self.item_id.weight[0] = 0
        tables = [features.tags, features.row_likes, features.row_views]
        for mine, theirs in zip([self.tags, self.likes, self.views], tables, strict=True):
            mine.weight.copy_(theirs.weight)
        attention = ours.attention
        of_attention = [attention.first, *attention.further, attention.score]
        _copy(_layers(self.attention, nn.Linear), of_attention)
        _copy(_layers(self.tower, nn.Linear), _layers(ours.tower, nn.Linear))
        _copy(_layers(self.tower, nn.BatchNorm1d), _layers(ours.tower, nn.BatchNorm1d))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return logits `(B,)`."""
        history_BL = padded(batch, self._width)
        item_BM = torch.cat([history_BL, batch.item_id_B.unsqueeze(1)], dim=1)
        tags_BMD = self.mean(self.tags(self.tags_IK[item_BM.flatten()]))
        features_BMD = torch.cat(
            [
                self.item_id(item_BM),
                tags_BMD.view(*item_BM.shape, -1),
                self.vectors_IV[item_BM],
            ],
            dim=2,
        )
        target_BD, sequence_BLD = features_BMD[:, -1], features_BMD[:, :-1]
        interest_BD = self.attention(target_BD, sequence_BLD, history_BL != 0)
        context = [self.likes(batch.likes_level_B), self.views(batch.views_level_B)]
        return self.tower(torch.cat([target_BD, interest_BD, *context], dim=1)).squeeze(1)


def padded(batch: Batch, width: int) -> torch.Tensor:
    """Return the histories `(B, width) int64`, zeros behind each."""
    place_L = torch.arange(width, device=batch.history_T.device)
    is_real_BL = place_L < batch.history_offsets.diff().unsqueeze(1)
    history_BL = batch.history_T.new_zeros(is_real_BL.shape)
    # Fills row by row, which is the order of the ragged histories.
    return history_BL.masked_scatter(is_real_BL, batch.history_T)


def _layers(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def _copy(mine: list[nn.Module], theirs: list[nn.Module]) -> None:
    for layer, source in zip(mine, theirs, strict=True):
        layer.load_state_dict(source.state_dict())


def train_fuxi_din(
    model: FuxiDin, train: BatchSource, valid: BatchSource, config: TrainingConfig
) -> Iterator[np.ndarray]:
    """Train as FuxiCTR does; yield the valid probabilities `(N,) float32` after each epoch.

    Of the settings those count that FuxiCTR has: rate, both decays as L2 terms of the loss, norm at
    which gradients are clipped, epochs, batch size and seed of the order.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    tables = [layer.weight for layer in _layers(model, nn.Embedding)]
    of_tables = {id(weight) for weight in tables}
    network = [weight for weight in model.parameters() if id(weight) not in of_tables]
    for epoch in range(1, config.max_epochs + 1):
        model.train()
        for batch in train.shuffled(config.batch_size, config.seed, epoch):
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label_B)
            loss = loss + config.embedding_weight_decay / 2 * _square(tables)
            loss = loss + config.weight_decay / 2 * _square(network)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip_norm)
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            scored = [torch.sigmoid(model(batch)) for batch in valid.in_order(4096)]
        yield torch.cat(scored).cpu().numpy()


def _square(weights: list[nn.Parameter]) -> torch.Tensor:
    return torch.stack([weight.square().sum() for weight in weights]).sum()

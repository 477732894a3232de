"""The objective of the attention fusion: two contrasts and a reconstruction.

The co-interaction contrast pulls items of one history together; the image-title contrast matches an
item's image with its title. Both are InfoNCE with the other items of the batch as negatives (van
den Oord et al., arXiv 1807.03748). The image-title contrast acts on the two projections through its
own heads. If it acted on the fused vector, it would remove what only one modality carries. A
contrast alone may also lose whatever does not help to tell items apart. Therefore a linear decoder
has to restore both inputs from the fused vector, as in a principal component analysis.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from mmctr_pipeline.fusion.attention.network import AttentionFusion
from mmctr_pipeline.fusion.config import AttentionConfig

HEAD_DIM = 64
"""Dimensions of the space in which images and titles are compared."""


@dataclasses.dataclass(frozen=True)
class ContrastBatch:
    """Rows of the item table: pairs `(P, 2)`, each from one history, and single items `(S,)`.

    `log_frequency_P` is the log of the frequency with which each second item is drawn as second.
    """

    pairs_P2: torch.Tensor
    log_frequency_P: torch.Tensor
    singles_S: torch.Tensor

    def __len__(self) -> int:
        return self.pairs_P2.numel() + len(self.singles_S)


class ContrastObjective(nn.Module):
    """The fusion with the parts that only its training needs: heads, decoder, item table.

    Parameters
    ----------
    fusion
        The fusion to learn.
    items_ND, present_NM
        Standardised vectors of all items, and which modalities each item has. Neither is part of
        the module's state.
    config
        Weights and temperature of the losses.
    """

    def __init__(
        self,
        fusion: AttentionFusion,
        items_ND: torch.Tensor,
        present_NM: torch.Tensor,
        config: AttentionConfig,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.heads = nn.ModuleList(nn.Linear(fusion.dim, HEAD_DIM, bias=False) for _ in fusion.dims)
        self.decoder = nn.Linear(fusion.dim, sum(fusion.dims), bias=False)
        with torch.no_grad():
            self.decoder.weight.copy_(fusion.projection.T)
        self._items_ND, self._present_NM = items_ND, present_NM
        self._config = config

    def losses(self, batch: ContrastBatch) -> dict[str, torch.Tensor]:
        """Return the three terms as scalars: two contrasts in nats, and a share of variance."""
        pairs, singles = slice(batch.pairs_P2.numel()), slice(batch.pairs_P2.numel(), None)
        rows_R = torch.cat([batch.pairs_P2.T.reshape(-1), batch.singles_S])
        items_RD, present_RM = self._items_ND[rows_R], self._present_NM[rows_R]
        projected_RMK = self.fusion.projected(items_RD)
        shown_RM = present_RM.clone()
        shown_RM[pairs] = self._drop_modalities(present_RM[pairs])
        fused_RK, _ = self.fusion.fused(projected_RMK, shown_RM)
        return {
            "co_interaction": self._co_interaction(fused_RK[pairs], batch),
            "image_title": self._image_title(projected_RMK[singles], present_RM[singles]),
            "reconstruction": self._reconstruction(
                fused_RK[singles], items_RD[singles], present_RM[singles]
            ),
        }

    @torch.no_grad()
    def mean_attention(self, among_N: torch.Tensor) -> torch.Tensor:
        """Return the mean attention weights `(M,)` of the items that have all modalities.

        Only items where `among_N` is True count. If none of them has all modalities, returns zeros.
        """
        chosen_N = among_N & self._present_NM.all(dim=1)
        projected_RMK = self.fusion.projected(self._items_ND[chosen_N])
        _, weights_RM = self.fusion.fused(projected_RMK, self._present_NM[chosen_N])
        return weights_RM.mean(dim=0).nan_to_num(0.0)

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of the three terms."""
        return (
            self._config.co_interaction_weight * losses["co_interaction"]
            + self._config.image_title_weight * losses["image_title"]
            + self._config.reconstruction_weight * losses["reconstruction"]
        )

    def _drop_modalities(self, present_BM: torch.Tensor) -> torch.Tensor:
        """In training, hide one modality of some of the items that have several."""
        rate, n_modalities = self._config.modality_dropout, present_BM.shape[1]
        if not self.training or rate == 0 or n_modalities < 2:
            return present_BM
        device = present_BM.device
        dropped_B = torch.rand(len(present_BM), device=device) < rate
        which_B = torch.randint(n_modalities, (len(present_BM),), device=device)
        hidden_BM = functional.one_hot(which_B, n_modalities).bool() & dropped_B.unsqueeze(1)
        return present_BM & ~(hidden_BM & present_BM.all(dim=1, keepdim=True))

    def _co_interaction(self, fused_BK: torch.Tensor, batch: ContrastBatch) -> torch.Tensor:
        n_pairs = len(batch.pairs_P2)
        if n_pairs < 2:
            return fused_BK.new_zeros(())
        anchor_PK, partner_PK = functional.normalize(fused_BK, dim=1).split(n_pairs)
        anchor_P, partner_P = batch.pairs_P2.unbind(dim=1)
        # A popular item is often a negative. Subtracting the log frequency keeps the contrast from
        # pushing such an item away from all others (sampled softmax).
        logits_PP = anchor_PK @ partner_PK.T / self._config.temperature - batch.log_frequency_P
        both_2P1 = torch.stack([anchor_P, partner_P]).unsqueeze(2)
        not_negative_PP = (both_2P1 == partner_P).any(dim=0).fill_diagonal_(False)
        logits_PP = logits_PP.masked_fill(not_negative_PP, float("-inf"))
        return functional.cross_entropy(logits_PP, torch.arange(n_pairs, device=fused_BK.device))

    def _image_title(self, projected_SMK: torch.Tensor, present_SM: torch.Tensor) -> torch.Tensor:
        both = present_SM.all(dim=1)
        if present_SM.shape[1] < 2 or int(both.sum()) < 2:
            return projected_SMK.new_zeros(())
        first_BH, second_BH = (
            functional.normalize(head(projected_SMK[both, m]), dim=1)
            for m, head in enumerate(self.heads)
        )
        logits_BB = first_BH @ second_BH.T / self._config.temperature
        target_B = torch.arange(len(logits_BB), device=logits_BB.device)
        to_image = functional.cross_entropy(logits_BB, target_B)
        to_title = functional.cross_entropy(logits_BB.T, target_B)
        return (to_image + to_title) / 2

    def _reconstruction(
        self, fused_SK: torch.Tensor, items_SD: torch.Tensor, present_SM: torch.Tensor
    ) -> torch.Tensor:
        """Return the sum of squared errors of the present columns, as a share of their squares."""
        if not len(fused_SK):
            return fused_SK.new_zeros(())
        error_SD = (self.decoder(fused_SK) - items_SD) * self.fusion.columns_present(present_SM)
        return error_SD.square().sum() / items_SD.square().sum().clamp(min=1e-12)

"""The learned fusion as a transform: applying it, its identity and its file (recipe B)."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch

from mmctr_pipeline.files.tensors import allocation_limit
from mmctr_pipeline.fusion.attention.network import AttentionFusion
from mmctr_pipeline.fusion.modalities import Modalities
from mmctr_pipeline.fusion.transform import INPUTS, FusedBlock, Transform


@dataclasses.dataclass(frozen=True)
class AttentionTransform(Transform):
    """A fusion by attention-weighted projections, learned without labels.

    `weights` are those of an `AttentionFusion`, float32 on the CPU. `decoder`, `(D, K) float32`
    with `D = text_dim + image_dim`, is linear and restores the standardised vectors from the fused
    one. `training` records the fit, JSON-serialisable: counts, epochs with their losses, the best
    epoch, and the mean attention on text and image. Where an item lacks one modality, a learned
    token replaces it.

    `explained_variance` is the share that `decoder` restores of the sum of squares of the
    standardised vectors, over the modalities that are present. Training measures the same on
    held-out items. It is negative if replacing every vector by the mean would be better.
    """

    score_dim: int
    weights: dict[str, torch.Tensor]
    decoder: torch.Tensor
    training: dict[str, Any]

    METHOD: ClassVar = "attention"
    NAME: ClassVar = "attention{dim}"
    MARKS: ClassVar = {"method": METHOD, "format": 2}
    SCALARS: ClassVar = ("dim", "text_dim", "image_dim", "score_dim", *INPUTS)

    def _hashed(self) -> Iterable[bytes]:
        tensors = self.weights | {"decoder": self.decoder}
        for name in sorted(tensors):
            yield name.encode()
            yield np.ascontiguousarray(tensors[name].numpy(), dtype="<f4").tobytes()

    def _content(self) -> dict[str, Any]:
        return {"training": self.training, "weights": self.weights, "decoder": self.decoder}

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Self:
        transform = cls(**content)
        n_columns, shape = transform.text_dim + transform.image_dim, transform.decoder.shape
        if shape != (n_columns, transform.dim):
            raise ValueError(
                f"decoder of shape {tuple(shape)}, expected {(n_columns, transform.dim)}"
            )
        with allocation_limit(transform.weights.values()):
            _ = transform._network
        return transform

    def _details(self) -> dict[str, Any]:
        return self.training

    @functools.cached_property
    def _network(self) -> AttentionFusion:
        dims = [dim for dim in (self.text_dim, self.image_dim) if dim]
        fusion = AttentionFusion(dims, self.dim, self.score_dim)
        fusion.load_state_dict(self.weights)
        # float64, so that a vector does not depend on which other vectors are in its block.
        return fusion.eval().double()

    @torch.no_grad()
    def _fuse(self, modalities: Modalities, rows: np.ndarray) -> FusedBlock:
        fusion = self._network
        vectors_BD, _ = modalities.concatenated(rows)
        present_BM = torch.from_numpy(modalities.present[rows])
        items_BD = fusion.standardised(torch.from_numpy(vectors_BD), present_BM)
        fused_BK, _ = fusion.fused(fusion.projected(items_BD), present_BM)
        restored_BD = fused_BK @ self.decoder.double().T
        return FusedBlock(fused_BK.numpy(), items_BD.numpy(), restored_BD.numpy())

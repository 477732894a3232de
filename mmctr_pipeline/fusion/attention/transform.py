"""Fusion by attention-weighted projections that are learned without labels (recipe B)."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.fusion.attention.network import AttentionFusion
from mmctr_pipeline.fusion.attention.training import learn_fusion
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.items import (
    blocks,
    presence_counts,
    require_finite,
    require_fitted_on,
    require_same_items,
    with_padding_row,
)
from mmctr_pipeline.fusion.transform_store import read_transform

_FORMAT = 2
_METHOD = "attention"


@dataclasses.dataclass(frozen=True)
class AttentionTransform:
    """A learned attention fusion of text and image vectors.

    `weights` are those of an `AttentionFusion`, float32 on the CPU; a modality that no item has
    takes no part and has dimension 0. `decoder` is `(text_dim + image_dim, dim) float32` and
    restores the standardised vectors from the fused one, as well as a linear map can.
    `training` is how it was learned, JSON-serialisable: counts, epochs with their losses, the best
    of them, and the mean attention on text and image. `identity` hashes weights, decoder and sizes
    together with the identities of the vectors it was fitted on.
    """

    weights: dict[str, torch.Tensor]
    decoder: torch.Tensor
    dim: int
    text_dim: int
    image_dim: int
    score_dim: int
    text_identity: str
    image_identity: str
    n_fitted_items: int
    training: dict[str, Any]

    @property
    def identity(self) -> str:
        """Name and content hash; equal for equal transforms of equal inputs alone."""
        digest = hashlib.sha256(json.dumps(self._scalars(), sort_keys=True).encode())
        tensors = self.weights | {"decoder": self.decoder}
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensors[name].numpy(), dtype="<f4").tobytes())
        return f"{_METHOD}{self.dim}:{digest.hexdigest()[:12]}"

    def _scalars(self) -> dict[str, Any]:
        names = ("dim", "text_dim", "image_dim", "score_dim", "text_identity", "image_identity")
        return {name: getattr(self, name) for name in (*names, "n_fitted_items")}

    def transform(self, text: VectorTable, image: VectorTable) -> VectorTable:
        """Return the fused vectors of the padding row 0 and of all items, float32.

        Row 0 is exactly zero. Where an item lacks one modality, its learned token stands in for
        it; an item that lacks both gets zeros. Both kinds of zero row have `present` False.

        The `explained_variance` of the provenance is the share of the standardised vectors of these
        items, as far as they are present, that `decoder` restores. It is what training measures
        on held-out items, and below zero where the mean would do better.

        Raises `ValueError` where the tables are not those of one set of items, were made by another
        encoder than those the transform was fitted on, or hold a number that is not finite.
        """
        require_same_items(text, image)
        modalities = []
        for table, dim, identity, name in (
            (text, self.text_dim, self.text_identity, "text"),
            (image, self.image_dim, self.image_identity, "image"),
        ):
            if dim:
                require_fitted_on(table, identity, name)
                modalities.append(table)
        present_NM = np.stack([table.present for table in modalities], axis=1)
        rows = np.flatnonzero(present_NM.any(axis=1))
        # float64, so that a vector does not depend on which others are in its block.
        fusion, decoder_DK = self._network().double(), self.decoder.double()
        vectors = np.zeros((len(text.item_id) + 1, self.dim), dtype=np.float32)
        lost = whole = 0.0
        for block in blocks(rows):
            parts = []
            for table in modalities:
                part = np.where(table.present[block, np.newaxis], table.vectors[block], 0)
                require_finite(part, table.item_id[block], table.identity)
                parts.append(part.astype(np.float64))
            present_BM = torch.from_numpy(present_NM[block])
            with torch.no_grad():
                items_BD = fusion.standardised(torch.from_numpy(np.hstack(parts)), present_BM)
                fused_BK, _ = fusion.fused(fusion.projected(items_BD), present_BM)
                error_BD = (fused_BK @ decoder_DK.T - items_BD) * fusion.columns_of(present_BM)
            lost += float(error_BD.square().sum())
            whole += float(items_BD.square().sum())
            vectors[1 + block] = fused_BK.numpy()
        measured = {
            "explained_variance": 1 - lost / whole if whole else 0.0,
            "counts": presence_counts(text, image),
        }
        return with_padding_row(
            text.item_id, rows, vectors, self.identity, self.summary() | measured
        )

    def _network(self) -> AttentionFusion:
        dims = [dim for dim in (self.text_dim, self.image_dim) if dim]
        fusion = AttentionFusion(dims, self.dim, self.score_dim)
        fusion.load_state_dict(self.weights)
        return fusion.eval()

    def summary(self) -> dict[str, Any]:
        """Return what the transform is and how it was learned, JSON-serialisable."""
        return {"method": _METHOD, **self._scalars(), **self.training}

    def save(self, path: Path) -> None:
        """Write to a `.pt` file, atomically."""
        content = {
            "method": _METHOD,
            "format": _FORMAT,
            "identity": self.identity,
            **self._scalars(),
            "training": self.training,
            "weights": self.weights,
            "decoder": self.decoder,
        }
        with atomic_write(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises `ValueError` where the file is damaged, or its content is not what it says.
        """
        marks = {"method": _METHOD, "format": _FORMAT}
        return read_transform(path, "an attention fusion", marks, lambda content: cls(**content))


def fit_attention(
    text: VectorTable,
    image: VectorTable,
    histories: Ragged,
    config: FusionConfig,
    device: torch.device,
) -> AttentionTransform:
    """Learn the fusion on the items that have a text or an image vector and on train histories.

    `histories` are the distinct histories of the train split, item ids. A seeded share of the
    items is held out: they take part in no pair, no contrast and no statistics of training, and
    the loss on them decides which epoch is kept (`fusion/contrast.py` says what the loss is). The
    number of dimensions is the least of `config.dim`, fitted items - 1, and the rank of the data.
    The same seed gives the same transform, bit by bit, on the CPU at the same number of threads.
    Raises `ValueError` where nothing can be fitted, where a vector is not finite, or where a
    history holds an item without a row.
    """
    require_same_items(text, image)
    used = [table for table in (text, image) if table.present.any()]
    for table in used:
        for block in blocks(np.flatnonzero(table.present)):
            require_finite(table.vectors[block], table.item_id[block], table.identity)
    learned = learn_fusion(used, histories, config, device)
    attention = dict(zip([table is text for table in used], learned.mean_attention, strict=True))
    return AttentionTransform(
        weights=learned.weights,
        decoder=learned.decoder,
        dim=learned.dim,
        text_dim=text.dim if text.present.any() else 0,
        image_dim=image.dim if image.present.any() else 0,
        score_dim=config.attention.score_dim,
        text_identity=text.identity,
        image_identity=image.identity,
        n_fitted_items=learned.n_fitted_items,
        training=learned.record
        | {
            "mean_attention": {
                "text": attention.get(True, 0.0),
                "image": attention.get(False, 0.0),
            },
        },
    )

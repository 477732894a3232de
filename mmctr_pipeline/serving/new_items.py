"""Encode items that the catalogue lacks, as the items of a trained model were encoded."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.schemas import MAX_LEVEL, MAX_TAG
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.recorded_vectors import recorded_encoders
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.serving.errors import ScorerError

if TYPE_CHECKING:
    from mmctr_pipeline.encoders.image.inference import ImageEncoder
    from mmctr_pipeline.encoders.text.models import TextModel
    from mmctr_pipeline.encoders.vector_tables import EncoderInfo
    from mmctr_pipeline.fusion.transform import Transform


@dataclasses.dataclass(frozen=True)
class NewItem:
    """An item that the catalogue lacks.

    Everything is optional: `title`, `cover` (an image file), `tags` (the data's tag ids), and the
    levels of the MMCTR data, 0 to 10.
    """

    title: str | None = None
    cover: Path | str | None = None
    tags: Sequence[int] = ()
    likes_level: int = 0
    views_level: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))  # a list could not be hashed
        for name in ("likes_level", "views_level"):
            if not 0 <= getattr(self, name) <= MAX_LEVEL:
                raise ScorerError(f"{name} is {getattr(self, name)}, not within 0..{MAX_LEVEL}")
        if wrong := [tag for tag in self.tags if not 0 <= tag <= MAX_TAG]:
            raise ScorerError(f"tag {wrong[0]} is not within 0..{MAX_TAG:,}")


class NewItemEncoder:
    """Encodes and fuses new items with the encoders and the transform of a model.

    Encoders are loaded when they are first needed, and kept.
    """

    def __init__(
        self, model: ModelFile, storage: Path, vectors: ItemVectors, device: torch.device
    ) -> None:
        """Prepare to encode.

        Parameters
        ----------
        model
            The model, whose configuration counts.
        storage
            The storage folder with its transform.
        vectors
            The vectors of the catalogue, text and image included, for their dimensions.
        device
            Where to encode.
        """
        self._model, self._storage, self._vectors = model, storage, vectors
        self._device = device

    def encode(self, new: Sequence[NewItem]) -> ItemVectors:
        """Return text, image and fused vectors of new items, which get the ids 1, 2, ...

        Raises `ScorerError` for a cover that cannot be read, and the errors of loading an encoder.
        """
        text, image = self._encode_titles(new), self._encode_covers(new)
        fused = self._transform.transform(text, image)
        return ItemVectors(fused.aligned_to(text.item_id), text, image)  # without the padding row

    def _encode_titles(self, new: Sequence[NewItem]) -> VectorTable:
        config, _ = recorded_encoders(self._model)
        table = _absent(self._vectors.text, len(new))
        if not config.encodes or not any(item.title for item in new):
            return table
        from mmctr_pipeline.encoders.text.titles import item_texts

        texts = item_texts(_as_table(new), config.template, self._tag_names).texts
        filled = [row for row, text in enumerate(texts) if text]
        unknown = self._text_model.unknown([texts[row] for row in filled])
        rows = [row for row, is_unknown in zip(filled, unknown, strict=True) if not is_unknown]
        if rows:
            chosen = [texts[row] for row in rows]
            table.vectors[rows] = self._text_model.encode(chosen, config.batch_tokens or 1024)
            table.present[rows] = True
        return table

    def _encode_covers(self, new: Sequence[NewItem]) -> VectorTable:
        _, config = recorded_encoders(self._model)
        table = _absent(self._vectors.image, len(new))
        rows = [row for row, item in enumerate(new) if item.cover is not None]
        if not config.encodes or not rows:
            return table
        from mmctr_pipeline.encoders.image.decode import (
            UnreadableImageError,
            quiet_pillow,
            read_bytes,
        )

        paths = [Path(str(new[row].cover)) for row in rows]
        try:
            files = [(path, hashlib.sha256(read_bytes(path)).digest()) for path in paths]
        except (UnreadableImageError, OSError) as error:
            raise ScorerError(f"cover of a new item: {error}") from error
        with quiet_pillow():
            shard = self._image_encoder.encode(files)
        for position, reason in shard.reasons.items():
            raise ScorerError(f"cover of a new item: {paths[position]}: {reason}")
        table.vectors[rows] = shard.vectors
        table.present[rows] = True
        return table

    @functools.cached_property
    def _tag_names(self) -> dict[int, str] | None:
        from mmctr_pipeline.encoders.text.titles import read_tag_names

        config, _ = recorded_encoders(self._model)
        return read_tag_names(Path(config.tag_names).expanduser()) if config.tag_names else None

    @functools.cached_property
    def _text_model(self) -> "TextModel":
        from mmctr_pipeline.encoders.text.encode import open_text_model

        config, _ = recorded_encoders(self._model)
        model, info = open_text_model(config, self._device)
        _require_same_code(info, self._vectors.text)
        return model

    @functools.cached_property
    def _image_encoder(self) -> "ImageEncoder":
        from mmctr_pipeline.encoders.image.inference import open_image_encoder

        _, config = recorded_encoders(self._model)
        encoder = open_image_encoder(config, self._device)
        _require_same_code(encoder.info, self._vectors.image)
        return encoder

    @functools.cached_property
    def _transform(self) -> "Transform":
        from mmctr_pipeline.fusion.fuse import transform_class
        from mmctr_pipeline.fusion.transform_store import TransformStore

        path = TransformStore(self._storage / "transforms").path(self._model.transform_identity)
        if not path.is_file():
            raise ScorerError(
                f"{path} does not exist, and without it new items cannot be fused. Fix: "
                "materialise fused_pca again, or train a new model"
            )
        method = self._model.resolved_config["fused_pca"]["fusion"]["method"]
        return transform_class(method).load(path)


def _require_same_code(encoder: "EncoderInfo", vectors: VectorTable | None) -> None:
    """Raise `ScorerError` if the code of an own encoder has changed since it made `vectors`."""
    if encoder.kind == "own":
        assert vectors is not None
        if not vectors.identity.startswith(encoder.identity):
            raise ScorerError(
                f"{encoder.name} has changed since it encoded the catalogue ({vectors.identity}, "
                f"now {encoder.identity}). Fix: restore its code, or train a new model"
            )


def _absent(like: VectorTable | None, n_items: int) -> VectorTable:
    """Return a table of `n_items` items without a vector, as wide as another one."""
    assert like is not None
    ids = np.arange(1, n_items + 1)
    shape = (n_items, like.dim)
    return VectorTable(ids, np.zeros(shape, np.float32), np.zeros(n_items, bool), like.identity)


def _as_table(new: Sequence[NewItem]) -> ItemTable:
    ids = np.arange(1, len(new) + 1)
    levels = np.zeros(len(new), np.int8)
    return ItemTable(
        ids=ids,
        item_id=ids.astype(np.int32),
        title=pa.array([item.title for item in new], pa.string()),
        tags=Ragged.from_lists([item.tags for item in new]),
        likes_level=levels,
        views_level=levels,
    )

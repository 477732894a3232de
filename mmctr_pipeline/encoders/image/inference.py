"""Run image files through an encoder, decoding them ahead in threads."""

import abc
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.encoders.clip import LoadedClip, load_clip
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.decode import (
    UnreadableImageError,
    decode,
    quiet_pillow,
    read_bytes,
)
from mmctr_pipeline.encoders.image.pixels import PixelSpec, normalised
from mmctr_pipeline.encoders.image.towers import Tower, fast_tower, plain_tower
from mmctr_pipeline.encoders.locate import locate_image_model
from mmctr_pipeline.encoders.own import OwnEncoder
from mmctr_pipeline.encoders.store.parquet_files import Notes
from mmctr_pipeline.encoders.store.vector_store import Shard
from mmctr_pipeline.encoders.vector_tables import EncoderInfo, parity_notes
from mmctr_pipeline.files.progress import Advance
from mmctr_pipeline.files.read_ahead import in_threads, n_cores
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.plugins import is_plugin
from mmctr_pipeline.precision import dtype_for, dtype_name

DECODER_VERSION = 1
"""Part of the identity: increase it when a change makes a file decode to other pixels."""


# Threads per actor that read and decode: one for each core, times one actor for each core, would be
# too many. More than one, as a file may have to come over the network.
_ACTOR_THREADS = 4


class ImageChangedError(RuntimeError):
    """A file changed or vanished after it was hashed; its shard is not stored."""


class ImageEncoder(abc.ABC):
    """Decodes and encodes the images of one shard; `info` identifies the model.

    `n_threads` is the number of threads that read and decode, None for one per core.
    """

    n_threads: int | None = None

    def __init__(self, info: EncoderInfo, pixels: PixelSpec, batch_size: int) -> None:
        self.info, self._pixels, self._batch_size = info, pixels, batch_size

    def encode(
        self, files: Sequence[tuple[Path | str, bytes]], advance: Advance | None = None
    ) -> Shard:
        """Return the vectors of files, and by position why a file has none.

        Each file, a path or a URL, comes with its SHA-256 digest; raises `ImageChangedError` if the
        file has changed since. Batches hold the readable files in order, so they depend only on the
        shard. `advance` is called with the number of files after each batch.
        """
        reasons: dict[int, str] = {}

        def readable() -> Iterator[tuple[int, np.ndarray]]:
            ahead = 2 * self._batch_size + n_cores()
            read = in_threads(self._read, files, ahead, self.n_threads)
            for position, found in enumerate(read):
                if isinstance(found, str):
                    reasons[position] = found
                else:
                    yield position, found

        notes: Notes = {}
        pictures = readable()
        with torch.inference_mode():
            vectors = np.zeros((len(files), self._dim), np.float32)
            while batch := list(itertools.islice(pictures, self._batch_size)):
                positions, pixels = zip(*batch, strict=True)
                found = self._forward(pixels)
                vectors[list(positions)] = found
                if advance is not None:
                    advance(len(batch))
                if not notes:
                    # The first image of a shard shows how close bfloat16 comes to float32.
                    notes = self._parity(pixels[:1], found[:1])
        return Shard(vectors, reasons, notes)

    @abc.abstractmethod
    def _forward(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors `(B, D) float32` of pictures `(H, W, 3) uint8`."""

    def _parity(self, pictures: Sequence[np.ndarray], vectors: np.ndarray) -> Notes:
        """Return notes that compare `vectors` of the pictures with float32."""
        return {}

    @functools.cached_property
    def _dim(self) -> int:
        """The width of the vectors, found by encoding a blank picture."""
        return self._forward([np.zeros((*self._pixels.size, 3), np.uint8)]).shape[1]

    def _read(self, file: tuple[Path | str, bytes]) -> np.ndarray | str:
        """Return the pixels of a file, or why it cannot be decoded."""
        path, digest = file
        try:
            content = read_bytes(path)
        except UnreadableImageError as error:
            raise ImageChangedError(f"{error}, but was readable a moment ago: run again") from error
        if hashlib.sha256(content).digest() != digest:
            raise ImageChangedError(f"{path} changed while it was encoded: run again")
        try:
            return decode(content, self._pixels, path)
        except UnreadableImageError as error:
            return error.reason


class ClipImageEncoder(ImageEncoder):
    """The image tower of an open_clip model."""

    def __init__(
        self, clip: LoadedClip, config: ImageEncoderConfig, device: torch.device | str
    ) -> None:
        dtype, device = dtype_for(config.precision, device), torch.device(device)
        name, source = clip.located.name, clip.located.source
        settings = f"{clip.image_settings_hash()}-{DECODER_VERSION}"
        hashes = clip.image_weights_hash(), settings
        info = EncoderInfo("open_clip", name, source, *hashes, dtype_name(dtype), str(device))
        batch_size = config.batch_size or (8 if device.type == "cpu" else 128)
        super().__init__(info, clip.pixels, batch_size)
        self._tower = fast_tower(clip.model.visual, dtype)
        self._reference = None if dtype == torch.float32 else plain_tower(clip.model.visual)
        self._device = device

    def _forward(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._run(pictures, self._tower)

    def _parity(self, pictures: Sequence[np.ndarray], vectors: np.ndarray) -> Notes:
        if self._reference is None:
            return {}
        return parity_notes(vectors, self._run(pictures, self._reference))

    def _run(self, pictures: Sequence[np.ndarray], tower: Tower) -> np.ndarray:
        pixels_BHWC = torch.from_numpy(np.stack(pictures)).to(self._device)
        return tower(normalised(pixels_BHWC, self._pixels)).cpu().numpy()


class OwnImageEncoder(ImageEncoder):
    """An image encoder of the user's own; it gets pictures scaled to squares of its `size`."""

    def __init__(self, config: ImageEncoderConfig, device: torch.device | str) -> None:
        self._own = own = OwnEncoder(config, device)
        info = dataclasses.replace(own.info, settings=f"{own.info.settings}-{DECODER_VERSION}")
        # Mean and deviation of the pixels are not used.
        pixels = PixelSpec((own.size, own.size), "bicubic", "squash", (0.0,) * 3, (1.0,) * 3)
        super().__init__(info, pixels, config.batch_size or 128)

    def _forward(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._own.encode(np.stack(pictures))


def open_image_encoder(config: ImageEncoderConfig, device: torch.device | str) -> ImageEncoder:
    """Load the encoder of a configuration; raises the errors of loading it, `SettingsError`s."""
    if is_plugin(config.source):
        return OwnImageEncoder(config, device)
    return ClipImageEncoder(load_clip(locate_image_model(config.model), device), config, device)


class ActorImageEncoder:
    """An image encoder on an actor of a Ray cluster, which shares its node with other actors."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder, self.info = encoder, encoder.info
        if torch.device(encoder.info.device).type == "cpu":
            encoder.n_threads = _ACTOR_THREADS

    def encode(self, files: Sequence[tuple[Path | str, bytes]]) -> Shard:
        """Return the vectors of files, as `ImageEncoder.encode`."""
        try:
            with quiet_pillow():
                return self._encoder.encode(files)
        except ImageChangedError as error:
            if isinstance(error.__cause__, UnreadableImageError):
                raise ImageChangedError(
                    f"{error.__cause__}, but the process that started the run could read it. Fix: "
                    "make the covers readable under the same path or URL on all nodes"
                ) from error
            raise


def open_on_actor(settings: Mapping[str, Any], device: str) -> ActorImageEncoder:
    """Load the encoder of a configuration on an actor of a Ray cluster."""
    keep_freed_memory()
    return ActorImageEncoder(open_image_encoder(ImageEncoderConfig.from_mapping(settings), device))

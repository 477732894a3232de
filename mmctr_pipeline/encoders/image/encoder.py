"""Image files to vectors by an open_clip model, decoding ahead of the forward passes."""

import collections
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mmctr_pipeline.encoders.clip import LoadedClip
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.decode import UnreadableImageError, decode, read_bytes
from mmctr_pipeline.encoders.image.pixels import normalised
from mmctr_pipeline.encoders.image.towers import fast_tower, plain_tower
from mmctr_pipeline.encoders.parity import parity_notes
from mmctr_pipeline.encoders.store.shards import Notes
from mmctr_pipeline.encoders.store.vector_store import Shard
from mmctr_pipeline.precision import dtype_for, dtype_name

DECODER_VERSION = 1
"""Raised when the same file would be decoded to other pixels; part of the encoder's identity."""

_PARITY_IMAGES = 1
In = TypeVar("In")
Out = TypeVar("Out")


class ImageChangedError(RuntimeError):
    """A file was written to, or is gone, since it was recognised; nothing of it is remembered."""


class ImageEncoder:
    """Decodes and encodes the images of one shard, decoding ahead of the forward passes."""

    def __init__(
        self, clip: LoadedClip, config: ImageEncoderConfig, device: torch.device | str
    ) -> None:
        dtype = dtype_for(config.precision, device)
        self.precision = dtype_name(dtype)
        self.identity = (
            f"open_clip:{clip.located.name}:{clip.image_weights_hash()[:12]}:"
            f"{clip.image_settings_hash()}-{DECODER_VERSION}:{self.precision}"
        )
        self._pixels = clip.pixels
        self._tower = fast_tower(clip.model.visual, dtype)
        self._plain = None if dtype == torch.float32 else plain_tower(clip.model.visual)
        self._device = torch.device(device)
        self._batch_size = config.batch_size or (8 if self._device.type == "cpu" else 128)

    def encode(self, paths: Sequence[Path], contents: Sequence[bytes]) -> Shard:
        """Return the vectors of the files, whose SHA-256 is `contents`, and why others have none.

        `reasons` go by the position in `paths`. Batches hold the readable files in order, so that
        they depend on the shard alone.
        """

        def read(file: tuple[Path, bytes]) -> np.ndarray | str:
            path, expected = file
            content = _read_again(path, expected)
            try:
                return decode(content, self._pixels, path)
            except UnreadableImageError as error:
                return error.reason

        reasons: dict[int, str] = {}
        good: list[int] = []
        parts: list[np.ndarray] = []
        twice: list[np.ndarray] = []
        batch: list[np.ndarray] = []
        with torch.inference_mode():
            files = list(zip(paths, contents, strict=True))
            ahead = 2 * self._batch_size + n_cores()
            for position, pixels in enumerate(in_threads(read, files, ahead)):
                if isinstance(pixels, str):
                    reasons[position] = pixels
                    continue
                good.append(position)
                batch.append(pixels)
                if len(twice) < _PARITY_IMAGES:
                    twice.append(pixels)
                if len(batch) == self._batch_size:
                    parts.append(self._forward(batch, self._tower))
                    batch.clear()
            if batch:
                parts.append(self._forward(batch, self._tower))
            if not parts:
                # The width is that of whatever the tower makes of any picture.
                height, width = self._pixels.size
                blank = self._forward([np.zeros((height, width, 3), np.uint8)], self._tower)
                return Shard(np.zeros((len(paths), blank.shape[1]), np.float32), reasons)
            found = np.concatenate(parts)
            notes: Notes = {}
            if self._plain is not None:
                plain = self._forward(twice, self._plain)
                notes = dict(parity_notes(found[: len(twice)], plain))
        vectors = np.zeros((len(paths), found.shape[1]), dtype=np.float32)
        vectors[good] = found
        return Shard(vectors, reasons, notes)

    def _forward(
        self, pictures: list[np.ndarray], tower: Callable[[torch.Tensor], torch.Tensor]
    ) -> np.ndarray:
        pixels_BHWC = torch.from_numpy(np.stack(pictures)).to(self._device)
        return tower(normalised(pixels_BHWC, self._pixels)).cpu().numpy()


def _read_again(path: Path, expected: bytes) -> bytes:
    """Return the content of a file whose SHA-256 was `expected` a moment ago."""
    try:
        content = read_bytes(path)
    except UnreadableImageError as error:
        raise ImageChangedError(
            f"{error}, though it could be read a moment ago: run again"
        ) from error
    if hashlib.sha256(content).digest() != expected:
        raise ImageChangedError(f"{path} changed while it was encoded: run again")
    return content


def in_threads(work: Callable[[In], Out], things: Sequence[In], ahead: int) -> Iterator[Out]:
    """Yield `work` of each thing, in order; as many threads as cores are at most `ahead` of it.

    For work that lets go of the interpreter lock: reading, hashing, decoding.
    """
    waiting: collections.deque[Future[Out]] = collections.deque()
    pool = ThreadPoolExecutor(max_workers=n_cores(), thread_name_prefix="read")
    try:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def n_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

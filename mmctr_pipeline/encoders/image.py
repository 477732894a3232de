"""Cover images become vectors, of which only those not yet in the vector store are encoded."""

import collections
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import pyarrow as pa
import torch

from mmctr_pipeline.data.discovery import IMAGE_FOLDERS, DataNotFoundError, ImageIndex
from mmctr_pipeline.data.progress import Log, Progress
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.clip_models import LoadedClip, load_clip
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.decode import UnreadableImageError, decode, quiet_pillow, read_bytes
from mmctr_pipeline.encoders.given import take_given
from mmctr_pipeline.encoders.image_tower import fast_tower, plain_tower
from mmctr_pipeline.encoders.locate import locate_image_model
from mmctr_pipeline.encoders.pixels import normalised
from mmctr_pipeline.encoders.precision import (
    dtype_for,
    dtype_name,
    parity,
    parity_notes,
)
from mmctr_pipeline.encoders.store import Notes, Shard, VectorStore

MISSING = "no file"

# Some ten seconds' work on two cores to lose at most.
SHARD_IMAGES = 256

DECODER_VERSION = 1
"""Raised when the same file would be decoded to other pixels; part of the encoder's identity."""

PROBLEM_SCHEMA = pa.schema(
    [("item_id", pa.int32()), ("path", pa.string()), ("reason", pa.string())]
)

_PARITY_IMAGES = 1
In = TypeVar("In")
Out = TypeVar("Out")


class ImageChangedError(RuntimeError):
    """A file was written to between the moment it was recognised and that it was decoded."""


@dataclasses.dataclass(frozen=True)
class ImageEncoding:
    """The vectors, and what went wrong on the way.

    `problems` has `item_id`, `path` and `reason` (`MISSING`, or why the file cannot be read), one
    row per item whose image was looked for and gave no vector, ids ascending.
    """

    table: VectorTable
    problems: pa.Table


def encode_images(
    item_id: np.ndarray,
    images: ImageIndex | None,
    config: ImageEncoderConfig,
    device: torch.device | str,
    store: VectorStore,
    log: Log,
    given: VectorTable | None = None,
) -> ImageEncoding:
    """Return one float32 vector per item of `item_id` (`(M,)` ascending), not normalised.

    Equal files are encoded once, and what `store` remembers not at all. An item whose image is
    missing or unreadable keeps its row: zeros, `present` False, a line in `problems`. Source
    `none` masks every item (one column of zeros). Raises `DataNotFoundError` where there is no
    image folder or not one image could be matched, `ValueError` where not one could be decoded,
    `ModelNotFoundError`, `ImageChangedError`.
    """
    item_id = np.asarray(item_id, dtype=np.int32)
    if config.source == "given":
        return ImageEncoding(take_given(item_id, given, config.column, log), _problems([]))
    if config.source == "none":
        return ImageEncoding(_masked(item_id), _problems([]))
    if images is None:
        raise DataNotFoundError(
            f"the data set has no folder of cover images (looked for {', '.join(IMAGE_FOLDERS)}). "
            "Fix: put the images there as {item_id}.jpg, or use the preset text_only, or set "
            "encoders.image.source to 'given' or 'none'"
        )
    start = time.monotonic()
    paths = _paths(item_id, images)
    clip = load_clip(locate_image_model(config.model), device)
    encoder = ImageEncoder(clip, config, device)
    log(
        f"image encoder {clip.located.name} from {clip.located.source}, "
        f"{encoder.precision} on {device}"
    )
    contents, reasons = _contents(paths, log)
    rows = np.array(list(contents), dtype=np.int64)

    def encode_shard(positions: np.ndarray) -> Shard:
        chosen = rows[positions].tolist()
        shard = encoder.encode([paths[row] for row in chosen], [contents[row] for row in chosen])
        reasons = {int(positions[place]): reason for place, reason in shard.reasons.items()}
        return dataclasses.replace(shard, reasons=reasons)

    with quiet_pillow():
        remembered = store.recall_or_encode(
            encoder.identity,
            list(contents.values()),
            encode_shard,
            shard_size=SHARD_IMAGES,
            # What an older Pillow could not read, a newer one may.
            reader=f"pillow {PIL.__version__}",
            log=log,
            unit="images",
        )
    reasons |= {int(rows[position]): reason for position, reason in remembered.reasons.items()}
    good = np.array([row for row in contents if row not in reasons], dtype=np.int64)
    if not len(good):
        raise ValueError(
            f"not one of the {len(paths):,} images in {images.folder} can be read: "
            f"{_tally(reasons.values())}. Fix: check the files, or use the preset text_only"
        )
    vectors = np.zeros((len(item_id), remembered.vectors.shape[1]), dtype=np.float32)
    present = np.zeros(len(item_id), dtype=bool)
    vectors[rows], present[good] = remembered.vectors, True
    n_unreadable = len(reasons)
    reasons |= {row: MISSING for row in range(len(item_id)) if row not in paths}
    tally = _tally(reasons.values())
    if reasons:
        log(f"{len(reasons):,} items without an image vector: {tally}")
    provenance = {
        "encoder": "open_clip",
        "config": config.to_mapping(),
        "model_source": clip.located.source,
        "weights_sha256": clip.image_weights_hash(),
        "device": str(device),
        "precision": encoder.precision,
        "parity": parity(remembered.notes),
        "counts": {
            "items": len(item_id),
            "encoded": remembered.n_encoded,
            "reused": remembered.n_reused,
            "missing": len(reasons) - n_unreadable,
            "unreadable": n_unreadable,
            "reasons": tally,
        },
        "seconds": round(time.monotonic() - start, 3),
    }
    table = VectorTable(item_id, vectors, present, encoder.identity, provenance)
    problems = [
        (int(item_id[row]), str(images.path(int(item_id[row]))), reasons[row])
        for row in sorted(reasons)
    ]
    return ImageEncoding(table, _problems(problems))


class ImageEncoder:
    """Decodes and encodes the images of one shard, decoding ahead of the forward passes."""

    def __init__(
        self, clip: LoadedClip, config: ImageEncoderConfig, device: torch.device | str
    ) -> None:
        dtype = dtype_for(config.precision, device)
        self.precision = dtype_name(dtype)
        self.identity = (
            f"open_clip:{clip.located.name}:{clip.image_weights_hash()[:12]}:"
            f"{clip.image_preprocessing_hash()}-{DECODER_VERSION}:{self.precision}"
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
            try:
                content = read_bytes(path)
                if hashlib.sha256(content).digest() != expected:
                    raise ImageChangedError(f"{path} changed while it was read: run again")
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


def _paths(item_id: np.ndarray, images: ImageIndex) -> dict[int, Path]:
    """Return the path of each row that has one, be it a file or what only bears its name."""
    matched = images.match(item_id)
    paths = {row: images.path(int(item_id[row])) for row in range(len(item_id))}
    return {row: path for row, path in paths.items() if matched[row] or os.path.lexists(path)}


def _contents(paths: dict[int, Path], log: Log) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the SHA-256 of each readable file by row, and why the other rows have none."""

    def digest(path: Path) -> bytes | str:
        try:
            return hashlib.sha256(read_bytes(path)).digest()
        except UnreadableImageError as error:
            return error.reason

    contents: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    progress = Progress(log, "looking which images are new", len(paths), "images")
    for row, found in zip(
        paths, in_threads(digest, list(paths.values()), 64 * n_cores()), strict=True
    ):
        if isinstance(found, str):
            reasons[row] = found
        else:
            contents[row] = found
        progress.advance()
    return contents, reasons


def _masked(item_id: np.ndarray) -> VectorTable:
    # A fixed-size list needs at least one column.
    return VectorTable(
        item_id=item_id,
        vectors=np.zeros((len(item_id), 1), dtype=np.float32),
        present=np.zeros(len(item_id), dtype=bool),
        identity="none",
        provenance={"encoder": "none", "counts": {"items": len(item_id), "encoded": 0}},
    )


def _tally(reasons: collections.abc.Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(reasons).items()))


def _problems(rows: list[tuple[int, str, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(dict(zip(PROBLEM_SCHEMA.names, columns, strict=True)), schema=PROBLEM_SCHEMA)

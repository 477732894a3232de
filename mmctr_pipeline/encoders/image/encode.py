"""Cover images become vectors, of which only those not yet in the vector store are encoded."""

import collections
import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import torch

from mmctr_pipeline.data.discovery import IMAGE_FOLDERS, DataNotFoundError, ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.clip import load_clip
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.given import take_given
from mmctr_pipeline.encoders.image.decode import UnreadableImageError, quiet_pillow, read_bytes
from mmctr_pipeline.encoders.image.encoder import ImageEncoder, in_threads, n_cores
from mmctr_pipeline.encoders.parity import parity
from mmctr_pipeline.encoders.sources import locate_image_model
from mmctr_pipeline.encoders.store.vector_store import Shard, StoreResult, VectorStore
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.memory import keep_freed_memory

logger = logging.getLogger(__name__)

MISSING = "no file"

# Some ten seconds' work on two cores to lose at most.
SHARD_IMAGES = 256

PROBLEM_SCHEMA = pa.schema(
    [("item_id", pa.int32()), ("path", pa.string()), ("reason", pa.string())]
)


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
        return ImageEncoding(take_given(item_id, given, config.column), _problems([]))
    if config.source == "none":
        return ImageEncoding(_masked(item_id), _problems([]))
    if images is None:
        raise DataNotFoundError(
            f"the data set has no folder of cover images (looked for {', '.join(IMAGE_FOLDERS)}). "
            "Fix: put the images there as {item_id}.jpg, or use the preset text_only, or set "
            "encoders.image.source to 'given' or 'none'"
        )
    keep_freed_memory()
    start = time.monotonic()
    paths = _paths(item_id, images)
    clip = load_clip(locate_image_model(config.model), device)
    encoder = ImageEncoder(clip, config, device)
    logger.info(
        f"image encoder {clip.located.name} from {clip.located.source}, "
        f"{encoder.precision} on {device}"
    )
    contents, reasons = _contents(paths)
    remembered = _get_or_encode(paths, contents, encoder, store)
    row_of_content = list(contents)
    for position, reason in remembered.reasons.items():
        reasons[row_of_content[position]] = reason
    if len(reasons) == len(paths):
        raise ValueError(
            f"not one of the {len(paths):,} images in {images.folder} can be read: "
            f"{_tally(reasons.values())}. Fix: check the files, or use the preset text_only"
        )
    vectors = np.zeros((len(item_id), remembered.vectors.shape[1]), dtype=np.float32)
    vectors[row_of_content] = remembered.vectors
    n_unreadable = len(reasons)
    reasons |= {row: MISSING for row in range(len(item_id)) if row not in paths}
    present = np.ones(len(item_id), dtype=bool)
    present[list(reasons)] = False
    tally = _tally(reasons.values())
    if reasons:
        logger.warning(f"{len(reasons):,} items without an image vector: {tally}")
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
    problems = [
        (int(item_id[row]), str(images.path(int(item_id[row]))), reasons[row])
        for row in sorted(reasons)
    ]
    table = VectorTable(item_id, vectors, present, encoder.identity, provenance)
    by_encoder = {"mmctr.identity": encoder.identity}
    return ImageEncoding(table, _problems(problems).replace_schema_metadata(by_encoder))


def _get_or_encode(
    paths: dict[int, Path],
    contents: dict[int, bytes],
    encoder: ImageEncoder,
    store: VectorStore,
) -> StoreResult:
    """Return the vectors of `contents` (by row, as `paths`), encoding what is not remembered."""
    rows = np.array(list(contents), dtype=np.int64)

    def encode_shard(positions: np.ndarray) -> Shard:
        chosen = rows[positions].tolist()
        shard = encoder.encode([paths[row] for row in chosen], [contents[row] for row in chosen])
        reasons = {int(positions[place]): reason for place, reason in shard.reasons.items()}
        return dataclasses.replace(shard, reasons=reasons)

    with quiet_pillow():
        return store.get_or_encode(
            encoder.identity,
            list(contents.values()),
            encode_shard,
            shard_size=SHARD_IMAGES,
            # What an older Pillow could not read, a newer one may.
            reader=f"pillow {PIL.__version__}",
            unit="images",
        )


def _paths(item_id: np.ndarray, images: ImageIndex) -> dict[int, Path]:
    """Return the path of each row that has one, be it a file or what only bears its name."""
    matched = images.match(item_id)
    paths = {row: images.path(int(item_id[row])) for row in range(len(item_id))}
    return {row: path for row, path in paths.items() if matched[row] or os.path.lexists(path)}


def _contents(paths: dict[int, Path]) -> tuple[dict[int, bytes], dict[int, str]]:
    """Return the SHA-256 of each readable file by row, and why the other rows have none."""

    def digest(path: Path) -> bytes | str:
        try:
            return hashlib.sha256(read_bytes(path)).digest()
        except UnreadableImageError as error:
            return error.reason

    contents: dict[int, bytes] = {}
    reasons: dict[int, str] = {}
    progress = Progress(logger, "looking which images are new", len(paths), "images")
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


def _tally(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(reasons).items()))


def _problems(rows: list[tuple[int, str, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(dict(zip(PROBLEM_SCHEMA.names, columns, strict=True)), schema=PROBLEM_SCHEMA)

"""Encode cover images that the vector store does not hold yet."""

import collections
import dataclasses
import hashlib
import logging
import os
import time
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import torch

from mmctr_pipeline.data.ids import ids_to_arrow
from mmctr_pipeline.data.image_url import index_images_at
from mmctr_pipeline.data.images import IMAGE_FOLDERS, ImageIndex
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.decode import UnreadableImageError, quiet_pillow, read_bytes
from mmctr_pipeline.encoders.image.inference import open_image_encoder, open_on_actor
from mmctr_pipeline.encoders.on_ray import ray_encoders
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.encoders.vector_tables import encoded_table, given_table
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.files.read_ahead import in_threads, n_cores
from mmctr_pipeline.memory import keep_freed_memory

logger = logging.getLogger(__name__)

MISSING = "no file"
LEADS_OUTSIDE = "a link out of the data folder"

# About ten seconds of work on two cores. An interrupted run loses at most this much.
SHARD_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class ImageEncoding:
    """The vectors, and the images without one.

    `problems` has one row per item whose image was looked for and gave no vector, ids ascending:
    `item_id`, `path` and `reason` (`MISSING`, or why the file cannot be read).
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
    """Return one float32 vector per item, in the order of `item_id`, not normalised.

    Equal files are encoded once. An item whose image is missing or unreadable gets zeros,
    `present` False, and a row in `problems`. With source `none`, all items get `present` False and
    one column of zeros. Raises `DataNotFoundError` if there is no image folder or no image matches
    an item, `DataError` if no image can be decoded, `ModelNotFoundError`, `ImageChangedError`; with
    `compute: ray` also `DeploymentError`, `OtherEncoderError` and `RayEncodingError`.

    Parameters
    ----------
    item_id
        The items, `(M,)` ascending.
    images
        Where the images are, unless `config.images_url` says so.
    config
        Model and precision.
    device
        Where the model runs.
    store
        Encodings of earlier runs; new ones are added.
    given
        The vectors to return with `source: given`, aligned to the items.
    """
    item_id = np.asarray(item_id)
    if not config.encodes:
        is_given = config.source == "given"
        table = given_table(item_id, given, config.column) if is_given else _masked(item_id)
        return ImageEncoding(table, _problems(item_id[:0], [], []))
    if config.images_url:
        images = index_images_at(config.images_url)
    if images is None:
        raise DataNotFoundError(
            f"the data set has no folder of cover images (looked for {', '.join(IMAGE_FOLDERS)}). "
            "Fix: put the images there as {item_id}.jpg, or use the preset text_only, or set "
            "encoders.image.source to 'given' or 'none'"
        )
    keep_freed_memory()
    start = time.monotonic()
    # This raises an error if no item has an image.
    images.match(item_id)
    with ray_encoders(open_on_actor, config, device) as on_ray:
        encoder = open_image_encoder(config, "cpu" if on_ray else device)
        info = on_ray.info(encoder.info) if on_ray else encoder.info
        logger.info(f"image encoder {info}")
        digests, reasons = _digests(images, item_id)
        rows, files = list(digests), list(digests.values())
        with quiet_pillow():
            result = store.get_or_encode(
                info.identity,
                [digest for _, digest in files],
                lambda rows, advance: encoder.encode([files[row] for row in rows], advance),
                shard_size=SHARD_IMAGES,
                # A newer Pillow may read files that an older one could not.
                reader=f"pillow {PIL.__version__}",
                unit="images",
                encode_together=on_ray.together(info, files) if on_ray else None,
            )
    reasons |= {rows[position]: reason for position, reason in result.reasons.items()}
    tally = dict(sorted(collections.Counter(reasons.values()).items()))
    listed = ", ".join(f"{count:,} {reason}" for reason, count in tally.items())
    n_missing = tally.get(MISSING, 0)
    n_unreadable = len(reasons) - n_missing
    if len(reasons) == len(item_id):
        raise DataError(
            images.place,
            f"none of the {n_unreadable:,} images can be read ({listed})",
            "check the files, or use the preset text_only",
        )
    if reasons:
        logger.warning(f"{len(reasons):,} items without an image vector: {listed}")
    counts = {"missing": n_missing, "unreadable": n_unreadable, "reasons": tally}
    table = encoded_table(item_id, np.array(rows), result, info, config, counts, start)
    bad = sorted(reasons)
    tried = [
        images.location(item) or f"{images.place}/{item}.jpg" for item in item_id[bad].tolist()
    ]
    problems = _problems(item_id[bad], list(map(str, tried)), [reasons[row] for row in bad])
    problems = problems.replace_schema_metadata({"mmctr.identity": table.identity})
    return ImageEncoding(table, problems)


def _problems(item_id: np.ndarray, paths: list[str], reasons: list[str]) -> pa.Table:
    columns = [ids_to_arrow(item_id), pa.array(paths, pa.string()), pa.array(reasons, pa.string())]
    return pa.table(columns, names=["item_id", "path", "reason"])


def _digests(
    images: ImageIndex, item_id: np.ndarray
) -> tuple[dict[int, tuple[Path | str, bytes]], dict[int, str]]:
    """Return path and SHA-256 of each readable image, and why the other items have none.

    The keys of both are positions in `item_id`.
    """

    def digest(item: int | str) -> tuple[Path | str, bytes] | str:
        path = images.location(item)
        if path is None:
            return LEADS_OUTSIDE if images.leads_outside(item) else MISSING
        if isinstance(path, Path) and not os.path.lexists(path):
            return MISSING
        try:
            return path, hashlib.sha256(read_bytes(path)).digest()
        except UnreadableImageError as error:
            return error.reason

    progress = Progress(logger, "hashing the images", len(item_id), "images")
    digests: dict[int, tuple[Path | str, bytes]] = {}
    reasons: dict[int, str] = {}
    for position, found in enumerate(in_threads(digest, item_id.tolist(), 64 * n_cores())):
        if isinstance(found, str):
            reasons[position] = found
        else:
            digests[position] = found
        progress.advance()
    return digests, reasons


def _masked(item_id: np.ndarray) -> VectorTable:
    # A fixed-size list needs at least one column.
    vectors = np.zeros((len(item_id), 1), dtype=np.float32)
    provenance = {"encoder": "none", "counts": {"items": len(item_id), "encoded": 0}}
    return VectorTable(item_id, vectors, np.zeros(len(item_id), bool), "none", provenance)

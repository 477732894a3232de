"""Cover images become vectors: any open_clip model, decoding ahead of the forward passes."""

import collections
import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import open_clip
import pyarrow as pa
import torch

from mmctr_pipeline.data.discovery import IMAGE_FOLDERS, DataNotFoundError, ImageIndex
from mmctr_pipeline.data.progress import Progress
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.decode import Preprocess, UnreadableImageError, read_image
from mmctr_pipeline.encoders.given import take_given
from mmctr_pipeline.encoders.locate import LocatedImageModel, locate_image_model

MISSING = "no file"

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


class ClipModel(Protocol):
    """What is used of open_clip's models: the image tower."""

    visual: Any

    def encode_image(self, image: torch.Tensor, normalize: bool) -> torch.Tensor:
        """Return `(B, D)` vectors of `(B, 3, H, W)` pixels."""


def encode_images(
    item_id: np.ndarray,
    images: ImageIndex | None,
    config: ImageEncoderConfig,
    device: torch.device | str,
    log: Callable[[str], None],
    given: VectorTable | None = None,
) -> ImageEncoding:
    """Return one float32 vector per item of `item_id` (`(M,)` ascending), not normalised.

    An item whose image is missing or unreadable keeps its row: zeros, `present` False, a line in
    `problems`. Source `none` masks every item (one column of zeros). Raises `DataNotFoundError`
    where there is no image folder or not one image could be matched, `ValueError` where not one
    could be decoded, `ModelNotFoundError`.
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
    matched = images.match(item_id)
    located = locate_image_model(config.model)
    log(f"image encoder {located.name} from {located.source}, on {device}")
    model, preprocess = load_image_model(located, device)
    paths = {row: images.path(int(item_id[row])) for row in _rows_to_read(item_id, images, matched)}
    vectors, reasons = _encode(model, preprocess, paths, config.batch_size, device, log)
    if vectors is None:
        raise ValueError(
            f"not one of the {len(paths):,} images in {images.folder} can be read: "
            f"{_tally(reasons.values())}. Fix: check the files, or use the preset text_only"
        )
    table = np.zeros((len(item_id), vectors.shape[1]), dtype=np.float32)
    present = np.zeros(len(item_id), dtype=bool)
    good = np.array([row for row in paths if row not in reasons], dtype=np.int64)
    table[good], present[good] = vectors, True
    reasons |= {row: MISSING for row in range(len(item_id)) if row not in paths}
    tally = _tally(reasons.values())
    if reasons:
        log(f"{len(reasons):,} items without an image vector: {tally}")
    problems = [
        (int(item_id[row]), str(images.path(int(item_id[row]))), reasons[row])
        for row in sorted(reasons)
    ]
    n_missing = tally.get(MISSING, 0)
    provenance = {
        "encoder": "open_clip",
        "config": config.to_mapping(),
        "model_source": located.source,
        "weights_sha256": weights_hash(model),
        "device": str(device),
        "counts": {
            "items": len(item_id),
            "encoded": len(good),
            "missing": n_missing,
            "unreadable": len(reasons) - n_missing,
            "reasons": tally,
        },
        "seconds": round(time.monotonic() - start, 3),
    }
    identity = image_identity(located, model)
    encoded = VectorTable(item_id, table, present, identity, provenance)
    return ImageEncoding(encoded, _problems(problems))


def load_image_model(
    located: LocatedImageModel, device: torch.device | str
) -> tuple[ClipModel, Preprocess]:
    """Load a located model in float32, with open_clip's own inference preprocessing."""
    with warnings.catch_warnings():
        # Said of every model whose weights want another activation than its definition; it is
        # set right here by force_quick_gelu.
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        model, preprocess = open_clip.create_model_from_pretrained(
            located.architecture,
            pretrained=str(located.weights) if located.weights else None,
            precision="fp32",
            device=torch.device(device),
            force_quick_gelu=located.quick_gelu,
            image_mean=located.preprocess.get("mean"),
            image_std=located.preprocess.get("std"),
            image_interpolation=located.preprocess.get("interpolation"),
            image_resize_mode=located.preprocess.get("resize_mode"),
        )
    return model.eval(), preprocess


def weights_hash(model: ClipModel) -> str:
    """Return the SHA-256 (hex) of the image tower's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.visual.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def image_identity(located: LocatedImageModel, model: ClipModel) -> str:
    """Return what makes the vectors: name, weights, preprocessing, activation, number format."""
    settings = json.dumps([model.visual.preprocess_cfg, located.quick_gelu], sort_keys=True)
    preprocessing = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return f"open_clip:{located.name}:{weights_hash(model)[:12]}:{preprocessing}:float32"


def _masked(item_id: np.ndarray) -> VectorTable:
    # A fixed-size list needs at least one column.
    return VectorTable(
        item_id=item_id,
        vectors=np.zeros((len(item_id), 1), dtype=np.float32),
        present=np.zeros(len(item_id), dtype=bool),
        identity="none",
        provenance={"encoder": "none", "counts": {"items": len(item_id), "encoded": 0}},
    )


def _rows_to_read(item_id: np.ndarray, images: ImageIndex, matched: np.ndarray) -> list[int]:
    """Return the rows whose path exists, be it a file or something that only bears its name."""
    return [
        row
        for row in range(len(item_id))
        if matched[row] or os.path.lexists(images.path(int(item_id[row])))
    ]


def _encode(
    model: ClipModel,
    preprocess: Preprocess,
    paths: dict[int, Path],
    batch_size: int,
    device: torch.device | str,
    log: Callable[[str], None],
) -> tuple[np.ndarray | None, dict[int, str]]:
    """Return the vectors of the readable images in order, and the reason of each other row."""
    parts: list[np.ndarray] = []
    reasons: dict[int, str] = {}
    batch: list[torch.Tensor] = []

    def forward() -> None:
        pixels_BCHW = torch.stack(batch).to(device)
        parts.append(model.encode_image(pixels_BCHW, normalize=False).float().cpu().numpy())
        batch.clear()

    progress = Progress(log, "encoding", len(paths), "images")
    start = time.monotonic()
    with torch.inference_mode():
        decoded = _decode_ahead(list(paths.values()), preprocess, ahead=2 * batch_size)
        for row, pixels in zip(paths, decoded, strict=True):
            if isinstance(pixels, str):
                reasons[row] = pixels
            else:
                batch.append(pixels)
            if len(batch) == batch_size:
                forward()
            progress.advance()
        if batch:
            forward()
    seconds = max(time.monotonic() - start, 1e-9)
    rate = len(paths) / seconds
    log(f"read {len(paths):,} images in {seconds:.1f} s, {rate:,.0f} images/s")
    return (np.concatenate(parts) if parts else None), reasons


def _decode_ahead(
    paths: Sequence[Path], preprocess: Preprocess, ahead: int
) -> Iterator[torch.Tensor | str]:
    """Yield each path's pixels `(3, H, W) float32`, or the reason why there are none, in order.

    Threads decode (Pillow lets go of the interpreter lock) at most `ahead` images in advance.
    """

    def read(path: Path) -> torch.Tensor | str:
        try:
            return read_image(path, preprocess)
        except UnreadableImageError as error:
            return error.reason

    waiting: collections.deque[Future[torch.Tensor | str]] = collections.deque()
    pool = ThreadPoolExecutor(max_workers=_n_cores(), thread_name_prefix="decode")
    try:
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tally(reasons: collections.abc.Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(reasons).items()))


def _problems(rows: list[tuple[int, str, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(dict(zip(PROBLEM_SCHEMA.names, columns, strict=True)), schema=PROBLEM_SCHEMA)

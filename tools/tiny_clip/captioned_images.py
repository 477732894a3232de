"""Read covers, titles and captions of a sample dataset as tensors to train a CLIP on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from mmctr_pipeline.encoders.image.decode import UnreadableImageError, open_cover
from mmctr_pipeline.sample.config import SamplePaths

Preprocess = Callable[[Image.Image], torch.Tensor]
Tokenize = Callable[[list[str]], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """N items that have both a readable cover and a title.

    `image` is `(N, 3, S, S) float32`, preprocessed. `title`, `caption` (which names style and
    category) and `captioned_title` (title and caption) are `(N, L) int64` tokens. `category` and
    `style` are `(N,) int64` indices into the sorted names. `n_skipped` counts the items left out.
    """

    image: torch.Tensor
    title: torch.Tensor
    caption: torch.Tensor
    captioned_title: torch.Tensor
    category: torch.Tensor
    style: torch.Tensor
    n_skipped: int

    def __len__(self) -> int:
        return len(self.image)


def read_sample(folder: Path, preprocess: Preprocess, tokenize: Tokenize) -> CaptionedImages:
    """Read a folder written by the command `mmctr sample`.

    Raises `FileNotFoundError` if it has no covers, and `ValueError` if its files disagree about the
    items or no item has both a readable cover and a title.
    """
    paths = SamplePaths(folder)
    if not paths.images.is_dir():
        raise FileNotFoundError(f"{paths.images} is missing: generate the dataset with images")
    feature = pq.read_table(paths.item_feature, columns=["item_id", "item_title"])
    truth = pq.read_table(paths.item_truth).to_pydict()
    if feature.column("item_id").to_pylist() != truth["item_id"]:
        raise ValueError(f"{folder}: item_feature and sample_items have different item ids")
    titles = feature.column("item_title").to_pylist()
    images, kept = [], []
    for row, (item_id, title) in enumerate(zip(truth["item_id"], titles, strict=True)):
        if not title:
            continue
        try:
            images.append(preprocess(open_cover(paths.images / f"{item_id}.jpg")))
        except UnreadableImageError:
            continue
        kept.append(row)
    if not kept:
        raise ValueError(f"{folder}: no item has both a readable cover and a title")
    n_skipped = len(titles) - len(kept)
    titles = [titles[row] for row in kept]
    captions = [truth["caption"][row] for row in kept]
    return CaptionedImages(
        image=torch.stack(images),
        title=tokenize(titles),
        caption=tokenize(captions),
        captioned_title=tokenize(
            [f"{title} ({caption})" for title, caption in zip(titles, captions, strict=True)]
        ),
        category=_indices([truth["category"][row] for row in kept]),
        style=_indices([truth["style"][row] for row in kept]),
        n_skipped=n_skipped,
    )


def _indices(names: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].astype(np.int64))

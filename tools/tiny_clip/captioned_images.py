"""Covers, titles and captions of a sample dataset on disk, as tensors to train a CLIP on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

Preprocess = Callable[[Image.Image], torch.Tensor]
Tokenize = Callable[[list[str]], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """N items that have both a readable cover and a title.

    `image` is `(N, 3, S, S) float32`, preprocessed; `title`, `caption` (naming style and category)
    and `captioned_title` (both) are `(N, L) int64` tokens; `category` and `style` are `(N,) int64`
    indices into the sorted names. `n_skipped` counts the items left out.
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
    """Read a folder that the command `mmctr sample` made.

    Raises `FileNotFoundError` where it has no covers, `ValueError` where its files disagree on the
    items or not one item has both a cover and a title.
    """
    if not (folder / "item_images").is_dir():
        raise FileNotFoundError(f"{folder}/item_images: generate the sample dataset with images")
    feature = pq.read_table(folder / "item_feature.parquet", columns=["item_id", "item_title"])
    truth = pq.read_table(folder / "sample_items.parquet").to_pydict()
    if feature.column("item_id").to_pylist() != truth["item_id"]:
        raise ValueError(f"{folder}: item_feature and sample_items hold different item ids")
    titles = feature.column("item_title").to_pylist()
    images, kept = [], []
    for row, (item_id, title) in enumerate(zip(truth["item_id"], titles, strict=True)):
        image = _read_image(folder / "item_images" / f"{item_id}.jpg") if title else None
        if image is not None:
            images.append(preprocess(image))
            kept.append(row)
    if not kept:
        raise ValueError(f"{folder}: not one item has both a readable cover and a title")
    title = [titles[row] for row in kept]
    caption = [truth["caption"][row] for row in kept]
    return CaptionedImages(
        image=torch.stack(images),
        title=tokenize(title),
        caption=tokenize(caption),
        captioned_title=tokenize([f"{t} ({c})" for t, c in zip(title, caption, strict=True)]),
        category=_indices([truth["category"][row] for row in kept]),
        style=_indices([truth["style"][row] for row in kept]),
        n_skipped=len(titles) - len(kept),
    )


def _read_image(path: Path) -> Image.Image | None:
    """Return the decoded image, or None where there is none or it is damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:  # missing, cut short, or no image at all
        return None


def _indices(names: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.unique(names, return_inverse=True)[1].astype(np.int64))

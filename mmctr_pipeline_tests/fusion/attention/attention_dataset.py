"""A small dataset whose histories can be explained only by titles and covers together."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable

N_KINDS, TEXT_DIM, IMAGE_DIM = 4, 24, 20
NO_IMAGE, NO_TEXT, NEITHER = (3, 4), (7,), (9,)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Titles show the category of an item, covers its style; items of a history share both.

    `cell` is the combination of category and style of each item. `cold` items are in no history.
    """

    text: VectorTable
    image: VectorTable
    histories: Ragged
    cell: np.ndarray
    cold: np.ndarray


def make_dataset(n_items: int = 320, n_histories: int = 700) -> Dataset:
    random = np.random.default_rng(5)
    category, style = random.integers(N_KINDS, size=(2, n_items))
    ids = np.arange(2, 2 * n_items + 2, 2, dtype=np.int32)

    def table(kind: np.ndarray, dim: int, absent: tuple[int, ...], name: str) -> VectorTable:
        signal = 0.7 * random.standard_normal((N_KINDS, dim))[kind]
        # Six uninformative directions outweigh the informative ones.
        nuisance = random.standard_normal((n_items, 6)) @ random.standard_normal((6, dim))
        vectors = signal + nuisance + 0.3 * random.standard_normal((n_items, dim)) + 2
        present = np.ones(n_items, dtype=bool)
        present[list(absent)] = False
        vectors[~present] = 0
        return VectorTable(ids, vectors.astype(np.float32), present, name)

    cold = np.arange(n_items) % 5 == 0
    cell = category * N_KINDS + style
    lists = []
    for taste in random.integers(N_KINDS**2, size=n_histories):
        liked = np.flatnonzero((cell == taste) & ~cold)
        lists.append(ids[random.choice(liked, min(5, len(liked)), replace=False)].tolist())
    text = table(category, TEXT_DIM, (*NO_TEXT, *NEITHER), "titles")
    image = table(style, IMAGE_DIM, (*NO_IMAGE, *NEITHER), "covers")
    return Dataset(text, image, Ragged.from_lists(lists), cell, cold)


DATASET = make_dataset()


def masked(like: VectorTable) -> VectorTable:
    """Return a table of the same items in which no item has a vector."""
    n_items = len(like.item_id)
    return VectorTable(
        like.item_id, np.zeros((n_items, 1), np.float32), np.zeros(n_items, bool), "none"
    )


def matching_neighbours(fused: VectorTable, dataset: Dataset) -> float:
    """Return the share of cold items' neighbours that match them in category and style.

    The neighbours of a cold item are the five watched items nearest to it.
    """
    norms = np.linalg.norm(fused.vectors[1:], axis=1, keepdims=True)
    vectors = fused.vectors[1:] / norms.clip(1e-9)
    queries = np.flatnonzero(dataset.cold & fused.present[1:])
    watched = np.flatnonzero(~dataset.cold & fused.present[1:])
    nearest = np.argsort(-vectors[queries] @ vectors[watched].T, axis=1)[:, :5]
    return float((dataset.cell[watched[nearest]] == dataset.cell[queries, np.newaxis]).mean())

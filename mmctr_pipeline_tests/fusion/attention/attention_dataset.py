"""A small world whose histories follow what titles and covers tell only together."""

import dataclasses

import numpy as np

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable

N_KINDS, TEXT_DIM, IMAGE_DIM = 4, 24, 20
NO_IMAGE, NO_TEXT, NEITHER = (3, 4), (7,), (9,)


@dataclasses.dataclass(frozen=True)
class World:
    """Titles tell the category, covers the style, and histories are of one of each."""

    text: VectorTable
    image: VectorTable
    histories: Ragged
    cell: np.ndarray
    cold: np.ndarray


def world(n_items: int = 320, n_histories: int = 1500) -> World:
    random = np.random.default_rng(5)
    category, style = random.integers(N_KINDS, size=(2, n_items))
    ids = np.arange(2, 2 * n_items + 2, 2, dtype=np.int32)

    def table(kind: np.ndarray, dim: int, absent: tuple[int, ...], name: str) -> VectorTable:
        telling = 0.7 * random.standard_normal((N_KINDS, dim))[kind]
        # Six directions that tell nothing outweigh the ones that do.
        nuisance = random.standard_normal((n_items, 6)) @ random.standard_normal((6, dim))
        vectors = telling + nuisance + 0.3 * random.standard_normal((n_items, dim)) + 2
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
    return World(text, image, Ragged.from_lists(lists), cell, cold)


WORLD = world()


def masked(like: VectorTable) -> VectorTable:
    n_items = len(like.item_id)
    return VectorTable(
        like.item_id, np.zeros((n_items, 1), np.float32), np.zeros(n_items, bool), "none"
    )

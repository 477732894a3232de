"""The nearest neighbours of a few items, by image, text and fused vector."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mmctr_pipeline.data.ids import find
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.vectors import VectorTable

_N_CANDIDATES = 512
"""Number of random items from which the queries are chosen."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Q query items and, for each kind of vector, the K items nearest to each query, in order.

    `query` `(Q,)` and `item_id[kind]` `(Q, K)` hold ids as in the data. Where there is no neighbour
    (the query has no vector of this kind, or fewer than K other items have one), the id is that of
    padding: 0 or an empty string. `similarity[kind]` is the cosine, `(Q, K) float32`.
    """

    query: np.ndarray
    item_id: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]

    def first(self, n_queries: int, n_neighbours: int) -> "Neighbours":
        """Return the first queries with their nearest neighbours."""
        part = np.s_[:n_queries, :n_neighbours]
        return Neighbours(
            self.query[:n_queries],
            {kind: ids[part] for kind, ids in self.item_id.items()},
            {kind: cosine[part] for kind, cosine in self.similarity.items()},
        )


def find_neighbours(
    item_id: np.ndarray,
    images: ImageIndex | None,
    tables: Mapping[str, VectorTable],
    n_queries: int,
    n_neighbours: int,
    seed: int = 0,
) -> Neighbours:
    """Choose query items and find the items nearest to each by cosine similarity.

    Queries are drawn at random among the items with the most kinds of vectors, if possible among
    those with a cover, and so that their vectors of the last kind are far apart. Vectors that are
    not present, zero or not finite are ignored, and so are tables that hold only such vectors.
    Items with equal similarities are in ascending order.

    Parameters
    ----------
    item_id
        Ids of the items to choose from, `(M,)`, ascending; other rows of the tables are ignored.
    images
        Where to look for covers.
    tables
        Vectors by kind.
    n_queries, n_neighbours
        Number of items, and of neighbours for each item and kind.
    seed
        Seed of the choice of query items.
    """
    lengths = {kind: _lengths(table, item_id) for kind, table in tables.items()}
    found = {kind: (tables[kind], length) for kind, length in lengths.items() if length.any()}
    query = _choose_queries(item_id, images, list(found.values()), n_queries, seed)
    neighbours = Neighbours(query, {}, {})
    for kind, (table, length) in found.items():
        nearest = _nearest(table, length, query, n_neighbours)
        neighbours.item_id[kind], neighbours.similarity[kind] = nearest
    return neighbours


def _choose_queries(
    item_id: np.ndarray,
    images: ImageIndex | None,
    found: Sequence[tuple[VectorTable, np.ndarray]],
    n_queries: int,
    seed: int,
) -> np.ndarray:
    if not found:
        return item_id[:0]
    random = np.random.default_rng(seed)
    n_kinds = np.sum([np.isin(item_id, table.item_id[length > 0]) for table, length in found], 0)
    pool = random.permutation(item_id[n_kinds == n_kinds.max()])[:_N_CANDIDATES]
    if images is not None:
        paths = [images.path(item) for item in pool.tolist()]
        has_cover = np.array([path is not None and path.is_file() for path in paths])
        pool = pool[has_cover] if has_cover.any() else pool
    units = _units(*found[-1], pool)
    # Drawn like the first centres of k-means++: far apart, but not only outliers.
    chosen = [0]
    while len(chosen) < min(n_queries, len(pool)):
        share = np.maximum(1.0 - (units @ units[chosen].T).max(axis=1).astype(float), 1e-6)
        share[chosen] = 0
        chosen.append(int(random.choice(len(pool), p=share / share.sum())))
    return pool[chosen]


def _lengths(table: VectorTable, item_id: np.ndarray) -> np.ndarray:
    """Return the length of each vector, `(N,)`; 0 if unusable or of an item not in `item_id`."""
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt(np.einsum("nd,nd->n", table.vectors, table.vectors))
    usable = table.present & np.isfinite(length) & np.isin(table.item_id, item_id)
    return np.where(usable, length, 0)


def _units(table: VectorTable, length: np.ndarray, item_id: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, `(M, D) float32`; zeros for an item without a usable vector."""
    position, is_there = find(item_id, table.item_id)
    usable = is_there & (length[position] > 0)
    units = np.zeros((len(item_id), table.dim), np.float32)
    rows = position[usable]
    units[usable] = table.vectors[rows] / length[rows, None]
    return units


def _nearest(
    table: VectorTable, length: np.ndarray, query: np.ndarray, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and cosines `(Q, K)` of the items nearest to each query.

    Where there is no neighbour, the id is that of padding, and the cosine 0.
    """
    units = _units(table, length, query)
    with np.errstate(all="ignore"):
        cosine = (table.vectors @ units.T) / length[:, None]
    cosine[(length[:, None] == 0) | (table.item_id[:, None] == query)] = -np.inf
    order = np.argsort(-cosine, axis=0, kind="stable")[:n_neighbours].T
    similarity = np.take_along_axis(cosine.T, order, axis=1)
    is_none = ~np.isfinite(similarity) | ~units.any(axis=1, keepdims=True)
    padding = np.zeros(1, table.item_id.dtype)
    return np.where(is_none, padding, table.item_id[order]), np.where(is_none, 0, similarity)

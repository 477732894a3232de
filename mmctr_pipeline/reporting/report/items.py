"""The items that a report shows: map, neighbours, predictions, and each one's title and cover."""

import base64
import dataclasses
import io
import logging

import numpy as np
from PIL import Image

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable
from mmctr_pipeline.data.ids import find
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.files.markdown import on_one_line
from mmctr_pipeline.files.progress import Progress
from mmctr_pipeline.reporting.item_display import cover_of, titles_of
from mmctr_pipeline.reporting.neighbours import find_neighbours
from mmctr_pipeline.training.metrics_report import times_in_train

logger = logging.getLogger(__name__)

MAX_MAP_ITEMS = 500
_N_QUERIES, _N_NEIGHBOURS = 5, 5
_EACH = 5
"""Predictions of each label among the ten of a list."""
_N_HISTORY = 3
_ITERATIONS = 500
_TITLE_LETTERS = 160
_KINDS = {"text": "text", "image": "image", "fused": "fusion"}
# Side in pixels and JPEG quality, best first.
_COVERS = ((64, 75), (64, 50), (48, 40), (32, 30))

Item = int
"""An item as its position in the item table: hostile ids then appear only as text."""


@dataclasses.dataclass(frozen=True)
class MapPoint:
    """An item on the map, at coordinates without a unit, and how often train has it."""

    item: Item
    x: float
    y: float
    times: int


@dataclasses.dataclass(frozen=True)
class NeighbourList:
    """The items nearest to a query by one kind of vector, nearest first, with their cosines."""

    kind: str
    items: list[tuple[Item, float]]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A valid row: its target, label and predicted probability, and its newest history items."""

    item: Item
    clicked: bool
    probability: float
    history_length: int
    history: list[Item]


def embedding_map(dataset: CtrDataset, vectors: VectorTable, seed: int = 0) -> list[MapPoint]:
    """Place at most 500 random items that have a vector on a plane by t-SNE.

    Items with similar vectors are close together; distances between far points mean little.
    """
    from sklearn.manifold import TSNE

    aligned = vectors.aligned_to(dataset.items.ids)
    usable = np.flatnonzero(aligned.present & np.isfinite(aligned.vectors).all(axis=1))
    n_usable = len(usable)
    if n_usable > MAX_MAP_ITEMS:
        generator = np.random.default_rng(seed)
        usable = np.sort(generator.choice(usable, MAX_MAP_ITEMS, replace=False))
    if len(usable) < 3:
        return []
    logger.info(
        f"report: placing {len(usable):,} of {n_usable:,} items with a vector on the map by t-SNE, "
        f"{_ITERATIONS} iterations over all pairs of them"
    )
    found = aligned.vectors[usable].astype(np.float64)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(usable) - 1) / 3)
    # Equal or one-dimensional vectors have no two principal components to begin with.
    has_plane = np.linalg.matrix_rank(found - found.mean(axis=0)) >= 2
    start = "pca" if has_plane else "random"
    method = TSNE(perplexity=perplexity, init=start, max_iter=_ITERATIONS, random_state=seed)
    places = method.fit_transform(found)
    rows = dataset.items.item_id[usable]
    times = times_in_train(rows, dataset.train, dataset.histories)
    return [
        MapPoint(int(item), round(float(x), 3), round(float(y), 3), int(n))
        for item, (x, y), n in zip(usable, places, times, strict=True)
    ]


def neighbour_lists(
    items: ItemTable, images: ImageIndex | None, vectors: ItemVectors
) -> dict[Item, list[NeighbourList]]:
    """Return the five nearest neighbours of five items by text, image and fused vector."""
    tables = {_KINDS[name]: table for name, table in vectors.tables.items()}
    tables = {kind: tables[kind] for kind in _KINDS.values() if kind in tables}
    logger.info(
        f"report: comparing at most {_N_QUERIES} items with each of {len(items):,} to find their "
        f"neighbours, by vectors of {', '.join(tables)}"
    )
    found = find_neighbours(items.ids, images, tables, _N_QUERIES, _N_NEIGHBOURS)
    lists: dict[Item, list[NeighbourList]] = {}
    for number, query in enumerate(_positions(items, found.query)):
        lists[query] = []
        for kind, ids in found.item_id.items():
            near, cosine = ids[number], found.similarity[kind][number]
            there = near != np.zeros(1, near.dtype)
            pairs = zip(_positions(items, near[there]), cosine[there].tolist(), strict=True)
            lists[query].append(NeighbourList(kind, list(pairs)))
    return lists


def confident_predictions(
    dataset: CtrDataset, scores: np.ndarray
) -> tuple[list[Prediction], list[Prediction]]:
    """Return the valid rows that the model was most sure of: those it got right, and wrong.

    Each list has at most five rows with a click and five without, the most extreme first. So the
    rarer label is shown too.
    """
    label = dataset.valid.label
    assert label is not None
    clicked, other = np.flatnonzero(label == 1), np.flatnonzero(label != 1)

    def most(rows: np.ndarray, sign: int) -> list[int]:
        return rows[np.argsort(sign * scores[rows], kind="stable")[:_EACH]].tolist()

    right = most(clicked, -1) + most(other, 1)
    wrong = most(other, -1) + most(clicked, 1)
    return (
        [_prediction(dataset, scores, row) for row in right],
        [_prediction(dataset, scores, row) for row in wrong],
    )


def _prediction(dataset: CtrDataset, scores: np.ndarray, row: int) -> Prediction:
    valid, items = dataset.valid, dataset.items
    assert valid.label is not None
    history = dataset.histories[int(valid.history[row])]
    places = np.searchsorted(items.item_id, history[-_N_HISTORY:][::-1]).tolist()
    return Prediction(
        item=int(np.searchsorted(items.item_id, valid.item_id[row])),
        clicked=bool(valid.label[row] == 1),
        probability=float(scores[row]),
        history_length=len(history),
        history=places,
    )


def _positions(items: ItemTable, ids: np.ndarray) -> list[Item]:
    return [int(position) for position in find(ids, items.ids)[0]]


def item_titles(items: ItemTable, shown: set[Item]) -> dict[Item, str]:
    """Return the titles of items on one line, shortened; the id stands for a missing title."""
    positions = np.array(sorted(shown), np.int64)
    found = titles_of(items, items.ids[positions])
    titles = {}
    for item in positions.tolist():
        identifier = items.ids[item].item()
        title = on_one_line(found[identifier]) or f"item {on_one_line(identifier)}, without a title"
        is_long = len(title) > _TITLE_LETTERS
        titles[item] = f"{title[: _TITLE_LETTERS - 1]}…" if is_long else title
    return titles


def item_covers(
    items: ItemTable, images: ImageIndex | None, shown: set[Item], max_bytes: int
) -> dict[Item, str]:
    """Return the covers of items as data URIs of JPEG pictures; items without one are left out.

    The pictures are as large as `max_bytes` for all of them allows, at most 64 pixels. If even the
    smallest are too large, there are none.
    """
    if images is None:
        return {}
    progress = Progress(logger, "covers of the report", len(shown), "covers")
    pictures: dict[Item, Image.Image] = {}
    for item in sorted(shown):
        picture = cover_of(images, items.ids[item].item(), _COVERS[0][0])
        if picture is not None:
            pictures[item] = picture
        progress.advance()
    for size, quality in _COVERS:
        uris = {item: _data_uri(picture, size, quality) for item, picture in pictures.items()}
        if sum(map(len, uris.values())) <= max_bytes:
            return uris
    logger.warning("the report shows no covers: together they would make it too large")
    return {}


def _data_uri(picture: Image.Image, size: int, quality: int) -> str:
    picture = picture.copy()
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

"""A few items beside their nearest neighbours by image, text and fused vector, as a picture."""

import bisect
import dataclasses
import struct
import unicodedata
import zlib
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting.plots import small_picture

_MAX_SHEET_BYTES = 2_000_000
# Queries are chosen among so many items, drawn at random.
_POOL = 512
# Larger covers would take seconds to decode and hundreds of MB; they get a grey tile.
_MAX_PIXELS = 50_000_000
# What Pillow lets out for a file that is missing, or no image, or a damaged one.
_DAMAGED = (SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError)
_UNREADABLE = (OSError, Image.DecompressionBombError, struct.error, zlib.error, *_DAMAGED)
_GAP, _LINE, _FONT_SIZE = 8, 15, 11
_INK, _FAINT, _GREY = "#202020", "#707070", "#e0e0e0"


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Q query items and, for each kind of vector, the K items nearest to each, nearest first.

    `query` is `(Q,) int32`. `item_id[kind]` is `(Q, K) int32`, 0 where the query has no vector of
    this kind or where no more items have one; `similarity[kind]` is the cosine, `(Q, K) float32`.
    """

    query: np.ndarray
    item_id: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]

    def first(self, n_queries: int, n_neighbours: int) -> "Neighbours":
        """Return the first queries with the nearest of their neighbours."""
        return Neighbours(
            self.query[:n_queries],
            {kind: ids[:n_queries, :n_neighbours] for kind, ids in self.item_id.items()},
            {kind: cosine[:n_queries, :n_neighbours] for kind, cosine in self.similarity.items()},
        )


@dataclasses.dataclass(frozen=True)
class NeighbourSheet:
    """Two PNG pictures: `full`, at most 2 MB, for a file; `small`, at most 50 KB, for metadata.

    `small` shows the first two queries of `full`.
    """

    full: bytes
    small: bytes


def neighbour_sheet(
    items: ItemTable,
    images: ImageIndex | None,
    tables: Mapping[str, VectorTable],
    *,
    n_queries: int = 6,
    n_neighbours: int = 5,
    thumbnail: int = 96,
    seed: int = 0,
) -> NeighbourSheet:
    """Draw a few items with their nearest neighbours: covers, titles and cosine similarities.

    `tables` names the kinds of vectors, in the order of the rows; see `find_neighbours`. Covers
    fit into a square of `thumbnail` pixels; where one is missing or unreadable there is a grey
    tile. Without `images` there are titles alone.
    """
    neighbours = find_neighbours(items.item_id, images, tables, n_queries, n_neighbours, seed)
    full = _draw(items, images, neighbours, thumbnail, title_lines=3)
    small = _draw(items, images, neighbours.first(2, 4), thumbnail * 2 // 3, title_lines=2)
    return NeighbourSheet(small_picture(full, _MAX_SHEET_BYTES), small_picture(small))


def find_neighbours(
    item_id: np.ndarray,
    images: ImageIndex | None,
    tables: Mapping[str, VectorTable],
    n_queries: int,
    n_neighbours: int,
    seed: int = 0,
) -> Neighbours:
    """Choose queries among the items `(M,) int32` and find the items nearest to each by cosine.

    Tables are matched by id. A vector that is masked, zero or not finite is nobody's neighbour,
    a query never its own, and a table without any usable vector is left out. Equal similarities
    stand by ascending id. Queries are drawn at random among the items with the most kinds of
    vectors, if possible with a cover file, and far from one another by the last kind.
    """
    directions = {kind: _Directions.of(table, item_id) for kind, table in tables.items()}
    directions = {kind: each for kind, each in directions.items() if len(each.rows)}
    query = _choose_queries(item_id, images, list(directions.values()), n_queries, seed)
    neighbours = Neighbours(query, {}, {})
    for kind, each in directions.items():
        neighbours.item_id[kind], neighbours.similarity[kind] = each.nearest(query, n_neighbours)
    return neighbours


@dataclasses.dataclass(frozen=True)
class _Directions:
    """The rows of a table whose vectors have a direction, by ascending id; nothing is copied."""

    table: VectorTable
    rows: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, table: VectorTable, item_id: np.ndarray) -> "_Directions":
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", table.vectors, table.vectors))
        usable = table.present & np.isfinite(norms) & (norms > 0) & np.isin(table.item_id, item_id)
        return cls(table, np.flatnonzero(usable), norms)

    @property
    def item_id(self) -> np.ndarray:
        return self.table.item_id[self.rows]

    def units(self, item_id: np.ndarray) -> np.ndarray:
        """Return vectors of length 1, `(N, D) float32`; zeros for an item without a direction."""
        position = np.minimum(np.searchsorted(self.item_id, item_id), len(self.rows) - 1)
        rows = self.rows[position]
        units = self.table.vectors[rows] / self.norms[rows, None]
        units[self.item_id[position] != item_id] = 0
        return units

    def nearest(self, query: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and cosines `(Q, K)` of what is nearest to each query; id 0 for nothing."""
        units = self.units(query)
        with np.errstate(invalid="ignore", over="ignore"):
            dot = self.table.vectors @ units.T
        cosine = dot[self.rows] / self.norms[self.rows, None]
        cosine[self.item_id[:, None] == query] = -np.inf
        order = np.argsort(-cosine, axis=0, kind="stable")[:n_neighbours].T
        similarity = np.take_along_axis(cosine.T, order, axis=1)
        nothing = ~np.isfinite(similarity) | ~units.any(axis=1, keepdims=True)
        return np.where(nothing, 0, self.item_id[order]), np.where(nothing, 0, similarity)


def _choose_queries(
    item_id: np.ndarray, images: ImageIndex | None, found: list[_Directions], most: int, seed: int
) -> np.ndarray:
    if not found:
        return np.zeros(0, np.int32)
    random = np.random.default_rng(seed)
    n_kinds = np.sum([np.isin(item_id, directions.item_id) for directions in found], axis=0)
    pool = random.permutation(item_id[n_kinds == n_kinds.max()])[:_POOL]
    if images is not None:
        has_cover = np.array([images.path(each).is_file() for each in pool])
        pool = pool[has_cover] if has_cover.any() else pool
    units = found[-1].units(pool)
    # As k-means++ draws its first centres: far apart, yet not the outliers alone.
    chosen = [0]
    while len(chosen) < min(most, len(pool)):
        share = np.maximum(1.0 - (units @ units[chosen].T).max(axis=1).astype(float), 1e-6)
        share[chosen] = 0
        chosen.append(int(random.choice(len(pool), p=share / share.sum())))
    return pool[chosen]


def _draw(
    items: ItemTable, images: ImageIndex | None, neighbours: Neighbours, size: int, title_lines: int
) -> Image.Image:
    """Draw a block per query: the item at the left, a row for each kind at its right."""
    kinds = list(neighbours.item_id)
    shown = np.concatenate([neighbours.query, *map(np.ravel, neighbours.item_id.values())])
    titles = _titles(items, np.unique(shown[shown > 0]))
    covers = {} if images is None else {each: _cover(images, each, size) for each in titles}
    heights = [cover.height for cover in covers.values() if cover is not None]
    cell = _Cell(titles, covers, (size, max(heights, default=size // 2)))

    n_columns = max((ids.shape[1] for ids in neighbours.item_id.values()), default=0)
    label = 2 * _GAP + int(max((cell.bold.getlength(kind) for kind in kinds), default=0))
    first_column = _GAP + cell.width + label
    row = cell.height(title_lines) + _GAP + _GAP // 2
    block = max(len(kinds), 1) * row + _GAP
    top = _LINE + _GAP
    width = first_column + max(n_columns, 3) * (cell.width + _GAP)
    canvas = Image.new("RGB", (width, top + len(neighbours.query) * block), "white")
    draw = ImageDraw.Draw(canvas)
    heading = "nearest by cosine similarity" if kinds else "no item has a vector"
    draw.text((_GAP, _GAP // 2), "item" if kinds else "", _FAINT, cell.bold)
    draw.text((first_column, _GAP // 2), heading, _FAINT, cell.bold)
    for number, query in enumerate(neighbours.query):
        y = top + number * block
        draw.line((_GAP, y, canvas.width - _GAP, y), _GREY)
        n_lines = (block - cell.height(0)) // _LINE - 1
        cell.draw(canvas, (_GAP, y + _GAP), int(query), f"item {query}", n_lines)
        for kind in kinds:
            draw.text((first_column - label + _GAP, y + _GAP), kind, _INK, cell.bold)
            found = neighbours.item_id[kind][number]
            if not found.any():
                draw.text((first_column, y + _GAP), "none", _FAINT, cell.font)
            for column in range(np.count_nonzero(found)):
                place = (first_column + column * (cell.width + _GAP), y + _GAP)
                caption = f"{neighbours.similarity[kind][number, column]:.3f}"
                cell.draw(canvas, place, int(found[column]), caption, title_lines)
            y += row
    return canvas


class _Cell:
    """Draws one item: its cover if there are covers, a caption, and its title below."""

    def __init__(
        self, titles: dict[int, str], covers: dict[int, Image.Image | None], tile: tuple[int, int]
    ) -> None:
        # The font that comes with matplotlib is on every machine; what it lacks becomes a box.
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.font = ImageFont.truetype(str(folder / "DejaVuSans.ttf"), _FONT_SIZE)
        self.bold = ImageFont.truetype(str(folder / "DejaVuSans-Bold.ttf"), _FONT_SIZE)
        self.titles, self.covers, self.tile = titles, covers, tile
        self.width = tile[0] + 44

    def height(self, n_lines: int) -> int:
        """Return the height in pixels of an item with `n_lines` lines of title."""
        return (self.tile[1] if self.covers else 0) + (1 + n_lines) * _LINE

    def draw(
        self, canvas: Image.Image, place: tuple[int, int], item: int, caption: str, n_lines: int
    ) -> None:
        draw = ImageDraw.Draw(canvas)
        x, y = place
        if self.covers:
            cover = self.covers[item]
            if cover is None:
                draw.rectangle((x, y, x + self.tile[0] - 1, y + self.tile[1] - 1), _GREY)
                middle = (x + self.tile[0] // 2, y + self.tile[1] // 2)
                draw.text(middle, "no cover", _FAINT, self.font, anchor="mm")
            else:
                canvas.paste(cover, (x, y))
            y += self.tile[1] + 2
        draw.text((x, y), caption, _FAINT, self.bold)
        for line in _wrapped(self.titles[item] or "(no title)", self.font, self.width, n_lines):
            y += _LINE
            draw.text((x, y), line, _INK, self.font)


def _cover(images: ImageIndex, item_id: int, size: int) -> Image.Image | None:
    """Return the cover fitted into a square, or None; `image_embeddings` counts and lists those."""
    path = images.path(item_id)
    try:
        # Whoever opens a pipe waits for somebody to write to it.
        if not path.is_file():
            return None
        with Image.open(path) as image:
            # Lets the JPEG decoder leave out what the small picture does not need.
            image.draft("RGB", (2 * size, 2 * size))
            if image.width * image.height > _MAX_PIXELS:
                return None
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return ImageOps.contain(upright, (size, size))
    except _UNREADABLE:
        return None


def _titles(items: ItemTable, item_id: np.ndarray) -> dict[int, str]:
    """Return the titles of some items as they can be drawn: one line, no control characters."""
    rows = pa.array(np.searchsorted(items.item_id, item_id))
    # Parquet does not check that text is UTF-8.
    raw = items.title.take(rows).cast(pa.large_binary()).to_pylist()
    return {
        int(item): _drawable((title or b"")[:1200].decode("utf-8", errors="replace"))
        for item, title in zip(item_id, raw, strict=True)
    }


def _drawable(title: str) -> str:
    letters = " ".join(unicodedata.normalize("NFKC", title).split())
    # Nor what only joins or varies emoji, which would be boxes of their own.
    return "".join(
        each
        for each in letters
        if unicodedata.category(each) not in ("Cc", "Cf") and not "\ufe00" <= each <= "\ufe0f"
    )


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, n_lines: int) -> list[str]:
    """Return up to `n_lines` lines of at most `width` pixels; an ellipsis ends what is cut off."""
    lines: list[str] = []
    while text and len(lines) < n_lines:
        n_fit = _letters_that_fit(text, font, width)
        if n_fit < len(text):
            if len(lines) == n_lines - 1:
                n_fit = _letters_that_fit(text, font, width - font.getlength("…"))
                return [*lines, text[:n_fit].rstrip() + "…"]
            space = text.rfind(" ", 0, n_fit + 1)
            n_fit = space if space > 0 else n_fit
        lines.append(text[:n_fit].rstrip())
        text = text[n_fit:].lstrip()
    return lines


def _letters_that_fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    lengths = range(1, len(text) + 1)
    return max(1, bisect.bisect_right(lengths, width, key=lambda n: font.getlength(text[:n])))

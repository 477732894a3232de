"""A picture of a few items with their nearest neighbours: covers, titles and similarities."""

import bisect
import dataclasses
import functools
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.discovery import ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.image.decode import UnreadableImageError, open_cover
from mmctr_pipeline.reporting.neighbours import Neighbours, find_neighbours
from mmctr_pipeline.reporting.plots import small_picture

_MAX_SHEET_BYTES = 2_000_000
_THUMBNAIL = 96
_GAP, _LINE, _FONT_SIZE = 8, 15, 11
_INK, _FAINT, _GREY = "#202020", "#707070", "#e0e0e0"


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
    seed: int = 0,
) -> NeighbourSheet:
    """Draw a few items with their nearest neighbours: covers, titles and cosine similarities.

    Parameters
    ----------
    items
        The item table, for the titles.
    images
        The covers; None draws only titles. A missing or unreadable cover becomes a grey tile.
    tables
        Vectors by kind, in the order of the rows of the picture.
    n_queries, n_neighbours
        Number of items, and of neighbours for each item and kind.
    seed
        Decides on the items, see `find_neighbours`.
    """
    neighbours = find_neighbours(items.item_id, images, tables, n_queries, n_neighbours, seed)
    full = _draw(items, images, neighbours, _THUMBNAIL, title_lines=3)
    small = _draw(items, images, neighbours.first(2, 4), _THUMBNAIL * 2 // 3, title_lines=2)
    return NeighbourSheet(small_picture(full, _MAX_SHEET_BYTES), small_picture(small))


def _draw(
    items: ItemTable, images: ImageIndex | None, neighbours: Neighbours, size: int, title_lines: int
) -> Image.Image:
    """Draw a block for each query: the item on the left, a row for each kind on its right."""
    kinds = list(neighbours.item_id)
    shown = np.concatenate([neighbours.query, *map(np.ravel, neighbours.item_id.values())])
    titles = _titles(items, np.unique(shown[shown > 0]))
    covers = {} if images is None else {each: _cover(images, each, size) for each in titles}
    heights = [cover.height for cover in covers.values() if cover is not None]
    cell = _Cell(titles, covers, (size, max(heights, default=size // 2)))

    n_found = [(ids > 0).sum(axis=1).max(initial=0) for ids in neighbours.item_id.values()]
    label = 2 * _GAP + int(max((_font(bold=True).getlength(kind) for kind in kinds), default=0))
    first_column = _GAP + cell.width + label
    row = cell.height(title_lines) + _GAP + _GAP // 2
    block = max(len(kinds), 1) * row + _GAP
    width = first_column + max([3, *n_found]) * (cell.width + _GAP)
    canvas = Image.new("RGB", (width, _LINE + _GAP + len(neighbours.query) * block), "white")
    draw = ImageDraw.Draw(canvas)
    heading = "nearest by cosine similarity" if kinds else "no item has a vector"
    draw.text((_GAP, _GAP // 2), "item" if kinds else "", _FAINT, _font(bold=True))
    draw.text((first_column, _GAP // 2), heading, _FAINT, _font(bold=True))
    for number, query in enumerate(neighbours.query):
        y = _LINE + _GAP + number * block
        draw.line((_GAP, y, canvas.width - _GAP, y), _GREY)
        n_lines = (block - cell.height(0)) // _LINE - 1
        cell.draw(canvas, (_GAP, y + _GAP), int(query), f"item {query}", n_lines)
        for kind in kinds:
            draw.text((first_column - label + _GAP, y + _GAP), kind, _INK, _font(bold=True))
            found = neighbours.item_id[kind][number]
            if not found.any():
                draw.text((first_column, y + _GAP), "none", _FAINT, _font())
            for column in range(np.count_nonzero(found)):
                place = (first_column + column * (cell.width + _GAP), y + _GAP)
                caption = f"{neighbours.similarity[kind][number, column]:.3f}"
                cell.draw(canvas, place, int(found[column]), caption, title_lines)
            y += row
    return canvas


@dataclasses.dataclass(frozen=True)
class _Cell:
    """Draws one item: its cover, if there are covers, a caption, and the title below."""

    titles: dict[int, str]
    covers: dict[int, Image.Image | None]
    tile: tuple[int, int]

    @property
    def width(self) -> int:
        return self.tile[0] + 44

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
                draw.text(middle, "no cover", _FAINT, _font(), anchor="mm")
            else:
                canvas.paste(cover, (x, y))
            y += self.tile[1] + 2
        draw.text((x, y), caption, _FAINT, _font(bold=True))
        for line in _wrapped(self.titles[item] or "(no title)", self.width, n_lines):
            y += _LINE
            draw.text((x, y), line, _INK, _font())


@functools.cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib's font is on every machine; glyphs that it lacks become boxes.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"DejaVuSans{'-Bold' * bold}.ttf", _FONT_SIZE)


def _cover(images: ImageIndex, item_id: int, size: int) -> Image.Image | None:
    """Return the cover scaled into a square; None if missing or unreadable."""
    try:
        return open_cover(images.path(item_id), within=size)
    except UnreadableImageError:
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
    # Characters that join or vary emoji would become boxes of their own.
    return "".join(
        each
        for each in letters
        if unicodedata.category(each) not in ("Cc", "Cf") and not "\ufe00" <= each <= "\ufe0f"
    )


def _wrapped(text: str, width: int, n_lines: int) -> list[str]:
    """Return up to `n_lines` lines of at most `width` pixels; an ellipsis marks a cut."""
    lines: list[str] = []
    while text and len(lines) < n_lines:
        n_fit = _letters_that_fit(text, width)
        if n_fit < len(text):
            if len(lines) == n_lines - 1:
                n_fit = _letters_that_fit(text, width - _font().getlength("…"))
                return [*lines, text[:n_fit].rstrip() + "…"]
            space = text.rfind(" ", 0, n_fit + 1)
            n_fit = space if space > 0 else n_fit
        lines.append(text[:n_fit].rstrip())
        text = text[n_fit:].lstrip()
    return lines


def _letters_that_fit(text: str, width: float) -> int:
    lengths = range(1, len(text) + 1)
    return max(1, bisect.bisect_right(lengths, width, key=lambda n: _font().getlength(text[:n])))

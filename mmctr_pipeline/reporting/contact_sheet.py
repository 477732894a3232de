"""A picture of a few items with their nearest neighbours: covers, titles and similarities."""

import dataclasses
import functools
import textwrap
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from anyascii import anyascii
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.images import ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.reporting.item_display import cover_of, titles_of
from mmctr_pipeline.reporting.neighbours import Neighbours, find_neighbours
from mmctr_pipeline.reporting.plots import small_picture

_MAX_SHEET_BYTES = 2_000_000
# In pixels: side of a cover, space between cells, height of a line, size of its letters.
_THUMBNAIL, _GAP, _LINE, _FONT_SIZE = 96, 8, 15, 11
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
        The covers; if None, only titles are drawn. A missing or unreadable cover becomes a grey
        tile.
    tables
        Vectors by kind; the picture has a row for each kind, in this order.
    n_queries, n_neighbours
        Number of items, and of neighbours for each item and kind.
    seed
        Seed of the choice of items, see `find_neighbours`.
    """
    neighbours = find_neighbours(items.ids, images, tables, n_queries, n_neighbours, seed)
    full = _draw(items, images, neighbours, _THUMBNAIL, n_lines=3)
    small = _draw(items, images, neighbours.first(2, 4), _THUMBNAIL * 2 // 3, n_lines=2)
    return NeighbourSheet(small_picture(full, _MAX_SHEET_BYTES), small_picture(small))


def _draw(
    items: ItemTable, images: ImageIndex | None, neighbours: Neighbours, size: int, n_lines: int
) -> Image.Image:
    """Draw a block for each query: on the left the item, on the right a row for each kind."""
    kinds = list(neighbours.item_id)
    shown = np.concatenate([neighbours.query, *map(np.ravel, neighbours.item_id.values())])
    ids = np.unique(shown[shown != np.zeros(1, shown.dtype)])
    titles = {item: _drawable(title) for item, title in titles_of(items, ids).items()}
    covers = {} if images is None else {item: cover_of(images, item, size) for item in titles}
    heights = [cover.height for cover in covers.values() if cover is not None]
    tile = Image.new("RGB", (size, max(heights, default=size // 2)), _GREY)
    middle = (size // 2, tile.height // 2)
    ImageDraw.Draw(tile).text(middle, "no cover", _FAINT, _font(), anchor="mm")
    text_width, letter = size + 44, _font().getlength("m")
    column = text_width + _GAP
    first_column = column + 2 * _GAP + int(max(map(len, kinds), default=0) * letter)
    row = (tile.height if covers else 0) + (1 + n_lines) * _LINE + _GAP + _GAP // 2
    block = max(len(kinds), 1) * row + _GAP
    n_columns = max([3, *(ids.shape[1] for ids in neighbours.item_id.values())])
    width = first_column + n_columns * column
    canvas = Image.new("RGB", (width, _LINE + _GAP + len(neighbours.query) * block), "white")
    draw = ImageDraw.Draw(canvas)

    def draw_item(x: int, y: int, item: int | str, caption: str, n_lines: int) -> None:
        if covers:
            canvas.paste(covers[item] or tile, (x, y))
            y += tile.height + 2
        draw.text((x, y), caption, _FAINT, _font(bold=True))
        n_letters = int(text_width / letter)
        lines = textwrap.wrap(titles[item] or "(no title)", n_letters)
        if len(lines) > n_lines:
            lines[n_lines - 1] = lines[n_lines - 1][: n_letters - 1] + "…"
        draw.text((x, y + _LINE), "\n".join(lines[:n_lines]), _INK, _font())

    heading = "nearest by cosine similarity" if kinds else "no item has a vector"
    draw.text((_GAP, _GAP // 2), "item" if kinds else "", _FAINT, _font(bold=True))
    draw.text((first_column, _GAP // 2), heading, _FAINT, _font(bold=True))
    for number, query in enumerate(neighbours.query):
        y = _LINE + _GAP + number * block
        draw.line((_GAP, y, canvas.width - _GAP, y), _GREY)
        n_query_lines = n_lines + (block - row) // _LINE
        draw_item(_GAP, y + _GAP, query.item(), _drawable(f"item {query}"), n_query_lines)
        for kind in kinds:
            draw.text((column + _GAP, y + _GAP), kind, _INK, _font(bold=True))
            found = neighbours.item_id[kind][number]
            n_found = np.count_nonzero(found != np.zeros(1, found.dtype))
            if not n_found:
                draw.text((first_column, y + _GAP), "none", _FAINT, _font())
            for place in range(n_found):
                similarity = f"  {neighbours.similarity[kind][number, place]:.3f}"
                n_letters = int(text_width / letter) - len(similarity)
                caption = _drawable(str(found[place]))[:n_letters] + similarity
                x = first_column + place * column
                draw_item(x, y + _GAP, found[place].item(), caption, n_lines)
            y += row
    return canvas


@functools.cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_path(bold), _FONT_SIZE)


def _font_path(bold: bool = False) -> Path:
    # This font comes with matplotlib. All letters have the same width, so lines can be wrapped by
    # counting letters.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return folder / f"DejaVuSansMono{'-Bold' * bold}.ttf"


def _drawable(title: str) -> str:
    """Return a title in one line, with a substitute for each character that the font lacks."""
    letters = " ".join(unicodedata.normalize("NFKC", title).split())
    return " ".join("".join(map(_drawn_as, letters)).split())


def _drawn_as(letter: str) -> str:
    """Return a letter, or Latin letters for one that the font lacks; nothing for an emoji."""
    category = unicodedata.category(letter)
    # Characters that only join or modify emoji would become boxes.
    if category in ("Cc", "Cf") or "\ufe00" <= letter <= "\ufe0f":
        return ""
    if _glyphs().get_char_index(ord(letter)):
        return letter
    return "" if category[0] == "S" else anyascii(letter)


@functools.cache
def _glyphs() -> FT2Font:
    return FT2Font(_font_path())

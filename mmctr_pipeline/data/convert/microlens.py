"""Read the raw files of MicroLens: implicit feedback, titles, likes and views.

The formats are from recsys.westlake.edu.cn/MicroLens-50k-Dataset and .../MicroLens-100k-Dataset, as
public code reads them (westlake-repl/MicroLens: readme.txt, Code/IDRec/process_data.ipynb and
issues 5, 10 and 18; the sizes of 50k are 50,000 users, 19,220 items and 359,708 interactions):

- `MicroLens-50k_pairs.csv`, `MicroLens-100k_pairs.csv`: header `user,item,timestamp`, the time in
  milliseconds. `..._pairs.tsv`: a user, a tab, and its items in the order of time, separated by
  spaces; read where there is no CSV.
- `MicroLens-50k_titles.csv` with the header `item,title`; `MicroLens-100k_title_en.csv` without a
  header. Titles hold commas and unbalanced quotes.
- `..._likes_and_views.txt`: item, likes and views, separated by tabs, without a header.
- `tags_to_summary.csv` (100k): item and one category, without a header.
- `MicroLens-50k_covers/`, `MicroLens-100k_covers/`: `{item}.jpg`.
"""

import logging
import re
from pathlib import Path

import numpy as np
import polars as pl

from mmctr_pipeline.data.convert.raw_files import (
    RawData,
    find_file,
    find_optional,
    integers,
    read_csv,
    read_text,
    refuse_duplicates,
    tag_columns,
)
from mmctr_pipeline.data.schemas import MAX_LEVEL
from mmctr_pipeline.data.validation import DataError

logger = logging.getLogger(__name__)

COVER_FOLDERS = ("MicroLens-*_covers", "covers", "item_images", "images")
_TITLE_LINE = re.compile(r"\s*([0-9]+)\s*,(.*)", re.DOTALL)


def read_microlens(folder: Path) -> RawData:
    """Return the interactions and items of a MicroLens download, with its own ids.

    An item's levels are the deciles of its likes and of its views among all items, 1 to 10, or 0 if
    they are unknown. Raises `DataError` naming file, column and row, and `DataNotFoundError` if a
    file is missing.
    """
    path = find_file(folder, "MicroLens-*_pairs.csv", "MicroLens-*_pairs.tsv")
    timed = path.suffix == ".csv"
    interactions = _timed_pairs(path) if timed else _ordered_pairs(path)
    logger.info(f"{len(interactions):,} interactions in {path.name}")
    title_path = find_file(path.parent, "MicroLens-*_title*.csv")
    titles = _texts(title_path)
    items = (
        interactions["item_id"].unique().to_frame().join(titles, "item_id", "full", coalesce=True)
    )
    items = items.sort("item_id").rename({"text": "item_title"})
    logger.info(
        f"{len(titles):,} titles in {title_path.name}; {items['item_title'].null_count():,} of "
        f"{len(items):,} items have none"
    )
    items = items.join(_levels(path.parent), "item_id", "left", maintain_order="left")
    items = items.with_columns(pl.col("likes_level", "views_level").fill_null(0))
    tags, names = tag_columns(_categories(path.parent, items))
    return RawData(interactions, items.with_columns(item_tags=tags), names, timed)


def _timed_pairs(path: Path) -> pl.DataFrame:
    header = ("user", "item", "timestamp")
    frame = read_csv(path, header)
    names = ("user_id", "item_id", "time")
    columns = {
        new: integers(frame, old, path, minimum=int(old != "timestamp"))
        for new, old in zip(names, header, strict=True)
    }
    return pl.DataFrame(columns).with_columns(liked=True)


def _ordered_pairs(path: Path) -> pl.DataFrame:
    """Read a user and its items per line; the time of an interaction is its position."""
    users: list[int] = []
    items: list[int] = []
    positions: list[int] = []
    for row, line in enumerate(read_text(path).splitlines()):
        user, _, listed = line.partition("\t")
        try:
            numbers = [int(item) for item in listed.split()]
            user_id = int(user)
        except ValueError:
            numbers, user_id = [], 0
        if user_id < 1 or not numbers or min(numbers) < 1:
            problem = f"the line is {line[:80]!r}"
            fix = "a user, a tab and items separated by spaces are expected; correct the line"
            raise DataError(path, problem, fix, row=row)
        users += [user_id] * len(numbers)
        items += numbers
        positions += range(len(numbers))
    columns = {"user_id": users, "item_id": items, "time": positions}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64)).with_columns(liked=True)


def _texts(path: Path) -> pl.DataFrame:
    """Read lines of an id, a comma and a text, which may be quoted.

    Some titles have unbalanced quotes, which would make a CSV reader join rows. A line that does
    not begin with an id continues the text of the line above.
    """
    texts: dict[int, str] = {}
    n_repeated, last = 0, None
    for row, line in enumerate(read_text(path).split("\n")):
        match = _TITLE_LINE.fullmatch(line)
        if match and int(match[1]) in texts:
            n_repeated, last = n_repeated + 1, None
        elif match:
            last = int(match[1])
            texts[last] = match[2].strip()
        elif last is not None:
            texts[last] += f" {line.strip()}"
        elif not texts and row and line.strip():  # row 0 may be a header
            problem = f"the line {line[:80]!r} does not begin with an item and a comma"
            raise DataError(path, problem, "download the file again", row=row)
    if not texts:
        raise DataError(path, "no line begins with an item and a comma", "download it again")
    if n_repeated:
        logger.info(f"{path.name}: {n_repeated:,} lines repeat an item; its first line is used")
    columns = {"item_id": list(texts), "text": [_unquoted(text) for text in texts.values()]}
    return pl.DataFrame(columns, schema={"item_id": pl.Int64, "text": pl.String})


def _unquoted(text: str) -> str | None:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"').strip()
    return text or None


def _levels(folder: Path) -> pl.DataFrame:
    """Return `item_id`, `likes_level` and `views_level`; no rows if there is no such file."""
    names = ("item_id", "likes_level", "views_level")
    path = find_optional(folder, "MicroLens-*_likes_and_views.txt")
    if path is None:
        logger.info("no likes and views: all levels are 0")
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Int64))
    lines = pl.Series(read_text(path).rstrip("\n").split("\n"))
    values = lines.str.strip_chars().str.replace_all(r"[,\s]+", "\t").str.split("\t")
    raw = ("item", "likes", "views")
    frame = pl.DataFrame(
        {name: values.list.get(index, null_on_oob=True) for index, name in enumerate(raw)}
    )
    ids = integers(frame, "item", path)
    refuse_duplicates(ids, path)
    counts = [integers(frame, name, path, minimum=0).to_numpy() for name in raw[1:]]
    return pl.DataFrame(dict(zip(names, [ids, *map(_deciles, counts)], strict=True)))


def _deciles(counts: np.ndarray) -> np.ndarray:
    """Return the decile of each count among all counts, 1 to 10; equal counts share a decile."""
    edges = np.quantile(counts, np.arange(1, MAX_LEVEL) / MAX_LEVEL)
    return 1 + np.searchsorted(edges, counts, side="left").astype(np.int64)


def _categories(folder: Path, items: pl.DataFrame) -> pl.Series:
    """Return the category of each item as a list of at most one name."""
    path = find_optional(folder, "tags_to_summary.csv")
    if path is None:
        logger.info("no tags_to_summary.csv: items have no tags")
        return pl.Series([[]] * len(items), dtype=pl.List(pl.String))
    joined = items.join(_texts(path), "item_id", "left", maintain_order="left")["text"]
    logger.info(f"{joined.n_unique() - joined.is_null().any():,} categories in {path.name}")
    return joined.to_frame().select(pl.concat_list("text").list.drop_nulls()).to_series()

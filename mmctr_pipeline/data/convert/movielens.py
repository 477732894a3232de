"""Read the raw files of MovieLens: explicit ratings, titles, genres.

The formats are GroupLens's (files.grouplens.org/datasets/movielens, README of each download):

- MovieLens-1M (and 10M), without headers: `ratings.dat` with `UserID::MovieID::Rating::Timestamp`,
  `movies.dat` with `MovieID::Title::Genres`. 1M is in latin-1, with whole stars from 1 to 5;
  `users.dat` (gender, age, occupation) is not read, since the layout has no place for it.
- ml-latest, ml-latest-small, ml-25m, ml-32m: `ratings.csv` with `userId,movieId,rating,timestamp`,
  `movies.csv` with `movieId,title,genres`, in UTF-8, with half stars from 0.5 to 5.

Genres are separated by `|`; `(no genres listed)` means none. Timestamps are seconds.
"""

import logging
from pathlib import Path

import polars as pl

from mmctr_pipeline.data.convert.config import MovieLensConfig
from mmctr_pipeline.data.convert.raw_files import (
    RawData,
    find_file,
    integers,
    ratings,
    read_csv,
    read_dat,
    refuse_duplicates,
    tag_columns,
)
from mmctr_pipeline.data.validation import DataError

logger = logging.getLogger(__name__)

_RATINGS = ("userId", "movieId", "rating", "timestamp")
_MOVIES = ("movieId", "title", "genres")
POSTER_FOLDERS = ("posters", "item_images", "images")


def read_movielens(folder: Path, config: MovieLensConfig) -> RawData:
    """Return the interactions and items of a MovieLens download, with its own ids.

    Both levels of all items are 0, since MovieLens states neither likes nor views. Raises
    `DataError` naming file, column and row, and `DataNotFoundError` if a file is missing.
    """
    path = find_file(folder, "ratings.dat", "ratings.csv")
    # The movies are in the same folder: the files of two downloads must not be mixed.
    movies_path = find_file(path.parent, f"movies{path.suffix}")
    frame = _read(path, _RATINGS)
    interactions = pl.DataFrame(
        {
            "user_id": integers(frame, "userId", path),
            "item_id": integers(frame, "movieId", path),
            "time": integers(frame, "timestamp", path, minimum=0),
            "liked": ratings(frame, "rating", path) >= config.threshold,
        }
    )
    logger.info(f"{len(interactions):,} ratings in {path.name}")
    items, tag_names = _items(movies_path)
    unknown = (~interactions["item_id"].is_in(items["item_id"].implode())).arg_true()
    if len(unknown):
        row = unknown[0]
        raise DataError(
            path,
            f"{movies_path.name} has no movie {interactions['item_id'][row]} ({len(unknown):,} "
            "rows have a movie that it lacks)",
            "use both files of the same download",
            "movieId",
            row,
        )
    return RawData(interactions, items, tag_names)


def _items(path: Path) -> tuple[pl.DataFrame, list[str]]:
    frame = _read(path, _MOVIES)
    ids = integers(frame, "movieId", path)
    refuse_duplicates(ids, path)
    genres = frame["genres"].fill_null("").str.strip_chars().replace("(no genres listed)", "")
    tags, names = tag_columns(
        genres.str.split("|").list.eval(pl.element().filter(pl.element() != ""))
    )
    logger.info(f"{len(frame):,} movies and {len(names)} genres in {path.name}")
    levels = {name: pl.lit(0, pl.Int64) for name in ("likes_level", "views_level")}
    items = pl.DataFrame({"item_id": ids, "item_title": frame["title"], "item_tags": tags})
    return items.with_columns(**levels), names


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    return read_dat(path, columns) if path.suffix == ".dat" else read_csv(path, columns)

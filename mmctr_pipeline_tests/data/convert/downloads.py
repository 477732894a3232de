"""Small folders in the form of the public downloads, with drawn contents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Rating = tuple[int, int, float, int]
"""User, movie, rating, time."""

GENRES = ("Action", "Children's", "Comedy", "Sci-Fi")


def drawn_ratings(n_users: int = 12, n_movies: int = 40, n_times: int = 10**9) -> list[Rating]:
    """Return 8 to 30 ratings by each user, in whole stars. Times repeat if `n_times` is small."""
    generator = np.random.default_rng(1)
    return [
        (user, int(movie), int(generator.integers(1, 6)), int(generator.integers(1, n_times)))
        for user in range(1, n_users + 1)
        for movie in generator.permutation(n_movies)[: generator.integers(8, 31)] * 3 + 1
    ]


def write_movielens_1m(folder: Path, ratings: Sequence[Rating], n_movies: int = 40) -> Path:
    """Write `ratings.dat`, `movies.dat` and `users.dat`; movie ids have gaps."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}::{movie}::{rating}::{time}" for user, movie, rating, time in ratings]
    _write(folder / "ratings.dat", lines)
    movies = [_movie(number) for number in range(n_movies)]
    text = "".join(f"{'::'.join(map(str, movie))}\n" for movie in movies)
    (folder / "movies.dat").write_bytes(text.encode("latin-1"))
    _write(folder / "users.dat", ["1::F::1::10::48067"])
    return folder


def write_movielens_latest(folder: Path, ratings: Sequence[Rating], n_movies: int = 40) -> Path:
    """Write `ratings.csv` and `movies.csv` as in ml-latest."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, rating)) for rating in ratings]
    _write(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *lines])
    movies = [_movie(number) for number in range(n_movies)]
    rows = [f'{movie},"{title}",{genres}' for movie, title, genres in movies]
    _write(folder / "movies.csv", ["movieId,title,genres", *rows])
    return folder


def _movie(number: int) -> tuple[int, str, str]:
    genres = "|".join(GENRES[: 1 + number % 4]) if number else "(no genres listed)"
    return 3 * number + 1, f"Misérables, Les {number} (1995)", genres


Pair = tuple[int, int, int]
"""User, item, time."""


def drawn_pairs(n_users: int = 60, n_items: int = 80) -> list[Pair]:
    """Return 5 to 14 interactions of each user, not in the order of time."""
    generator = np.random.default_rng(2)
    popularity = 1 / np.arange(1, n_items + 1)
    return [
        (user, int(item) + 1, int(1_600_000_000_000 + generator.integers(10**9)))
        for user in range(1, n_users + 1)
        for item in generator.choice(
            n_items, generator.integers(5, 15), replace=False, p=popularity / popularity.sum()
        )
    ]


def write_microlens(folder: Path, pairs: Sequence[Pair], n_items: int = 80) -> Path:
    """Write pairs, titles, likes and views as in MicroLens-50k; item i has 100 * i likes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(map(str, pair)) for pair in pairs]
    _write(folder / "MicroLens-50k_pairs.csv", ["user,item,timestamp", *lines])
    titles = [f'{item},"video {item}, part ""{item}"" 快"' for item in range(1, n_items + 1)]
    _write(folder / "MicroLens-50k_titles.csv", ["item,title", *titles])
    counts = [f"{item}\t{100 * item}\t{10**6 - item}" for item in range(1, n_items + 1)]
    _write(folder / "MicroLens-50k_likes_and_views.txt", counts)
    return folder


def write_images(folder: Path, names: Sequence[str]) -> Path:
    """Write small image files."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    return folder


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

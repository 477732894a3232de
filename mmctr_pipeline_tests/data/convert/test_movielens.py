"""MovieLens conversion: labels, splits by time and histories equal those found by hand."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from mmctr_pipeline.data.convert.config import MovieLensConfig
from mmctr_pipeline.data.convert.convert import convert_movielens
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline.encoders.text.titles import read_tag_names
from mmctr_pipeline_tests.data.convert.downloads import (
    GENRES,
    Rating,
    drawn_ratings,
    write_movielens_1m,
    write_movielens_latest,
)

SPLITS = ("train", "valid", "test")


def _converted(raw: Path, config: MovieLensConfig | None = None) -> dict[str, pl.DataFrame]:
    output = raw.with_name("data")
    convert_movielens(raw, output, config or MovieLensConfig())
    tables = {path.stem: pl.read_parquet(path) for path in output.glob("*.parquet")}
    assert tables["test"]["ID"].to_list() == tables["test_labels"]["ID"].to_list()
    tables["test"] = tables["test"].with_columns(tables["test_labels"]["label"])
    return tables


def _splits_by_hand(ratings: list[Rating], held_out: float) -> dict[tuple[int, int], str]:
    """Return the split of each (user, movie) rated after the first movie that the user liked."""
    by_user = defaultdict(list)
    for user, movie, rating, _ in sorted(ratings, key=lambda row: row[3]):
        by_user[user].append((movie, rating))
    splits: dict[tuple[int, int], str] = {}
    for user, rated in by_user.items():
        first_liked = next(at for at, (_, rating) in enumerate(rated) if rating >= 4)
        movies = [movie for movie, _ in rated[first_liked + 1 :]]
        n = max(1, round(held_out * len(movies)))
        names = ["train"] * (len(movies) - 2 * n) + ["valid"] * n + ["test"] * n
        splits |= {(user, movie): name for movie, name in zip(movies, names, strict=True)}
    return splits


@pytest.mark.parametrize("write", [write_movielens_1m, write_movielens_latest])
def test_ratings_after_the_first_like_become_rows_split_by_time(
    write: Callable[[Path, list[Rating]], Path], tmp_path: Path
) -> None:
    ratings = drawn_ratings()
    tables = _converted(write(tmp_path / "ml", ratings))
    split_of = {
        (row["user_id"], row["item_id"]): name for name in SPLITS for row in tables[name].to_dicts()
    }
    assert split_of == _splits_by_hand(ratings, 0.1)
    assert len(split_of) == sum(len(tables[name]) for name in SPLITS)
    rating_of = {(user, movie): rating for user, movie, rating, _ in ratings}
    for row in pl.concat(
        tables[name].select("user_id", "item_id", "label") for name in SPLITS
    ).rows():
        assert row[2] == (rating_of[row[:2]] >= 4)


def test_a_history_has_only_the_movies_liked_at_earlier_times(tmp_path: Path) -> None:
    ratings = drawn_ratings(n_times=9)  # many equal times
    tables = _converted(write_movielens_1m(tmp_path / "ml", ratings))
    time_of = {(user, movie): time for user, movie, _, time in ratings}
    n_rows = 0
    for name in SPLITS:
        for row in tables[name].to_dicts():
            user, history = row["user_id"], row["item_seq"]
            now = time_of[user, row["item_id"]]
            earlier = {
                movie
                for rater, movie, rating, time in ratings
                if rater == user and rating >= 4 and time < now
            }
            assert set(history) == earlier
            assert len(history) == len(earlier)
            times = [time_of[user, movie] for movie in history]
            assert times == sorted(times)
            n_rows += 1
    assert n_rows > 100
    for user in tables["test"]["user_id"].unique():
        by_split = [
            [time_of[user, movie] for movie in tables[name].filter(user_id=user)["item_id"]]
            for name in SPLITS
        ]
        assert max(by_split[0]) <= min(by_split[1])
        assert max(by_split[1]) <= min(by_split[2])


def test_titles_are_read_in_latin_1_and_genres_become_tags(tmp_path: Path) -> None:
    raw = write_movielens_1m(tmp_path / "ml", drawn_ratings())
    items = _converted(raw)["item_feature"]
    assert items["item_title"][2] == "Misérables, Les 2 (1995)"
    assert items["item_tags"].to_list()[:3] == [[], [1, 2], [1, 2, 3]]
    assert items["item_id"].to_list()[:3] == [1, 4, 7]
    assert set(items["likes_level"]) == {0}
    names = read_tag_names(tmp_path / "data" / "tag_names.csv")
    assert names == dict(enumerate(GENRES, 1))


def test_settings_change_labels_histories_and_users(tmp_path: Path) -> None:
    raw = write_movielens_latest(
        tmp_path / "ml", [(u, m, r - 0.5, t) for u, m, r, t in drawn_ratings()]
    )
    config = MovieLensConfig(threshold=2.5, min_history=2, max_history=3, max_users=5)
    rows = pl.concat(_converted(raw, config)[name].drop("ID", strict=False) for name in SPLITS)
    assert rows["user_id"].n_unique() == 5
    assert set(rows["item_seq"].list.len()) == {2, 3}
    rating_of = {(user, movie): rating - 0.5 for user, movie, rating, _ in drawn_ratings()}
    for user, movie, label in rows.select("user_id", "item_id", "label").rows():
        assert label == (rating_of[user, movie] >= 2.5)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("ratings.dat", "1::4::5", r"ratings\.dat, row 2: the line '1::4::5' has 3 values, but 4"),
        ("ratings.dat", "x::4::5::9", r"column userId, row 2: the value is 'x'\. Fix: an integer"),
        ("ratings.dat", "1::4::6::9", r"column rating, row 2: the value is '6'\. Fix: a rating"),
        ("ratings.dat", "1::5::5::9", r"column movieId, row 2: movies.dat has no movie 5"),
        ("movies.dat", "1::again::Comedy", r"column movieId, row 2: the id 1 occurs twice"),
    ],
)
def test_errors_name_file_column_row_and_fix(
    name: str, line: str, message: str, tmp_path: Path
) -> None:
    raw = write_movielens_1m(tmp_path / "ml", drawn_ratings())
    lines = (raw / name).read_text("latin-1").splitlines()
    lines[2] = line
    (raw / name).write_text("\n".join(lines), "latin-1")
    with pytest.raises(DataError, match=message) as raised:
        _converted(raw)
    assert "Fix: " in str(raised.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"1,4,5,9,7", r"ratings\.csv, row 2: not a readable CSV file"),
        (b"1,\xe9,5,9", r"ratings\.csv, row 2: not a readable CSV file"),
        (b"1,4,5", r"column timestamp, row 2: the value is missing\. Fix: "),
    ],
)
def test_a_damaged_row_of_a_csv_file_is_named(row: bytes, message: str, tmp_path: Path) -> None:
    raw = write_movielens_latest(tmp_path / "ml", drawn_ratings())
    lines = (raw / "ratings.csv").read_bytes().splitlines()
    lines[3] = row
    (raw / "ratings.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=message):
        _converted(raw)


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    raw = write_movielens_latest(tmp_path / "ml", drawn_ratings())
    text = (raw / "ratings.csv").read_text()
    (raw / "ratings.csv").write_text(text.replace("rating", "stars", 1))
    with pytest.raises(DataError, match=r"ratings\.csv, column rating: the column is missing"):
        _converted(raw)
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match=r"ratings\.csv: the file has no rows\. Fix: download"):
        _converted(raw)
    (raw / "ratings.csv").unlink()
    with pytest.raises(DataNotFoundError, match=r"has ratings\.dat or ratings\.csv\. Fix: unpack"):
        _converted(raw)

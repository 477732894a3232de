"""MicroLens conversion: interactions, drawn negatives, titles, levels and categories."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmctr_pipeline.data.convert.config import MicroLensConfig
from mmctr_pipeline.data.convert.convert import convert_microlens
from mmctr_pipeline.data.convert.microlens import read_microlens
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline_tests.data.convert.downloads import drawn_pairs, write_microlens

SPLITS = ("train", "valid", "test")


def _rows(raw: Path, config: MicroLensConfig | None = None) -> dict[str, pl.DataFrame]:
    output = raw.with_name("data")
    convert_microlens(raw, output, config or MicroLensConfig())
    tables = {name: pl.read_parquet(output / f"{name}.parquet") for name in SPLITS}
    labels = pl.read_parquet(output / "test_labels.parquet")["label"]
    tables["test"] = tables["test"].with_columns(labels)
    return tables


def test_leave_one_out_holds_out_the_last_two_interactions_of_each_user(tmp_path: Path) -> None:
    pairs = drawn_pairs()
    tables = _rows(write_microlens(tmp_path / "raw", pairs), MicroLensConfig(held_out=0))
    for user in {pair[0] for pair in pairs}:
        items = [item for rater, item, _ in sorted(pairs, key=lambda p: p[2]) if rater == user]
        clicks = {name: table.filter(user_id=user, label=1) for name, table in tables.items()}
        assert clicks["train"]["item_id"].to_list() == items[1:-2]
        assert clicks["valid"]["item_id"].to_list() == [items[-2]]
        assert clicks["test"]["item_id"].to_list() == [items[-1]]
        assert clicks["train"]["item_seq"].to_list() == [
            items[:n] for n in range(1, len(items) - 2)
        ]
        assert clicks["test"]["item_seq"].to_list() == [items[:-1]]


def test_negatives_have_the_user_and_the_history_of_their_interaction(tmp_path: Path) -> None:
    pairs = drawn_pairs()
    tables = _rows(write_microlens(tmp_path / "raw", pairs), MicroLensConfig(negatives=3))
    own = {(user, item) for user, item, _ in pairs}
    first_time = {item: min(p[2] for p in pairs if p[1] == item) for _, item, _ in pairs}
    time_of = {pair[:2]: pair[2] for pair in pairs}
    positions: Counter[int] = Counter()
    for table in tables.values():
        groups = table.with_row_index().with_columns(group=pl.col("index") // 4)
        for group in groups.partition_by("group"):
            assert group["user_id"].n_unique() == 1
            assert group["item_seq"].n_unique() == 1
            assert group["item_id"].n_unique() == 4
            assert group["label"].sum() == 1
            positions[group["label"].arg_max() or 0] += 1
            user = group["user_id"][0]
            now = time_of[user, group.filter(label=1)["item_id"][0]]
            for item in group.filter(label=0)["item_id"]:
                assert (user, item) not in own
                assert first_time[item] <= now
    # The order within a group is random.
    assert min(positions[at] for at in range(4)) > 0.15 * positions.total()


@pytest.mark.parametrize("exponent", [0.0, 0.75])
def test_negatives_follow_the_popularity_to_the_given_power(
    exponent: float, tmp_path: Path
) -> None:
    # Items 1 to 40 exist from the start. Only the last 5,000 users have rows, and they interact
    # only with items 41 to 44.
    items = [item for item in range(1, 41) for _ in range(item * item)]
    pairs = [(number + 1, item, 1) for number, item in enumerate(items)]
    users = range(len(pairs) + 1, len(pairs) + 5001)
    pairs += [(user, 40 + time, time) for user in users for time in range(1, 5)]
    raw = write_microlens(tmp_path / "raw", pairs, 44)
    tables = _rows(raw, MicroLensConfig(popularity=exponent))
    drawn = Counter(pl.concat(t.filter(label=0)["item_id"] for t in tables.values()))
    weights = np.arange(1, 41) ** (2 * exponent)
    expected = weights / weights.sum() * sum(drawn.values())
    deviations = (np.array([drawn[item] for item in range(1, 41)]) - expected) / np.sqrt(expected)
    assert np.abs(deviations).max() < 4.5


def test_equal_seeds_give_equal_bytes_and_different_seeds_do_not(tmp_path: Path) -> None:
    raw = write_microlens(tmp_path / "raw", drawn_pairs())
    outputs = []
    for seed in (1, 1, 2):
        _rows(raw, MicroLensConfig(seed=seed))
        outputs.append((tmp_path / "data" / "train.parquet").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


def test_pairs_in_one_line_per_user_without_times_give_the_same_clicks(tmp_path: Path) -> None:
    pairs = sorted(drawn_pairs(), key=lambda pair: (pair[0], pair[2]))
    raw = write_microlens(tmp_path / "raw", pairs)
    with_times = _rows(raw)
    (raw / "MicroLens-50k_pairs.csv").unlink()
    users = sorted({pair[0] for pair in pairs})
    lines = [
        f"{user}\t{' '.join(str(item) for rater, item, _ in pairs if rater == user)}\n"
        for user in users
    ]
    (raw / "MicroLens-50k_pairs.tsv").write_text("".join(lines))
    without_times = _rows(raw)
    columns = ("user_id", "item_id", "item_seq")
    for name in SPLITS:
        clicks = [
            rows[name].filter(label=1).select(columns) for rows in (with_times, without_times)
        ]
        assert clicks[0].equals(clicks[1])


def test_levels_are_deciles_of_likes_and_views(tmp_path: Path) -> None:
    raw = write_microlens(tmp_path / "raw", drawn_pairs())
    items = read_microlens(raw).items
    assert items["likes_level"].to_list() == [1 + at // 8 for at in range(80)]
    assert items["views_level"].to_list() == [10 - at // 8 for at in range(80)]
    (raw / "MicroLens-50k_likes_and_views.txt").unlink()
    assert set(read_microlens(raw).items["likes_level"]) == {0}


def test_titles_with_commas_and_unbalanced_quotes_are_read(tmp_path: Path) -> None:
    raw = write_microlens(tmp_path / "raw", drawn_pairs())
    items = read_microlens(raw).items
    assert items["item_title"][6] == 'video 7, part "7" 快'
    (raw / "MicroLens-50k_titles.csv").unlink()
    titles = ['1, a 5" screen, he said', '2,"quoted', "3,", "4,two", "lines"]
    path = raw / "MicroLens-100k_title_en.csv"
    path.write_text("\ufeff" + "\r\n".join(titles), "utf-8")
    items = read_microlens(raw).items
    assert items["item_title"].to_list()[:5] == [
        'a 5" screen, he said',
        '"quoted',
        None,
        "two lines",
        None,
    ]
    path.write_text("item;title\n1;first\n")
    with pytest.raises(DataError, match=r"title_en\.csv, row 1: the line '1;first' does not begin"):
        read_microlens(raw)


def test_categories_become_tags(tmp_path: Path) -> None:
    raw = write_microlens(tmp_path / "raw", drawn_pairs())
    assert read_microlens(raw).items["item_tags"].to_list()[:2] == [[], []]
    (raw / "tags_to_summary.csv").write_text("1,Music\n3,Food\n4,Music\n")
    data = read_microlens(raw)
    assert data.tag_names == ["Food", "Music"]
    assert data.items["item_tags"].to_list()[:4] == [[2], [], [1], [2]]


def test_a_wrong_count_and_two_downloads_in_one_folder_are_named(tmp_path: Path) -> None:
    raw = write_microlens(tmp_path / "raw", drawn_pairs())
    path = raw / "MicroLens-50k_likes_and_views.txt"
    path.write_text(path.read_text().replace("\t500\t", "\t0.5万\t"))
    with pytest.raises(DataError, match=r"views\.txt, column likes, row 4: the value is '0\.5万'"):
        read_microlens(raw)
    (raw / "MicroLens-100k_pairs.csv").write_text("user,item,timestamp\n")
    with pytest.raises(DataNotFoundError, match=r"found MicroLens-\*_pairs\.csv twice"):
        read_microlens(raw)

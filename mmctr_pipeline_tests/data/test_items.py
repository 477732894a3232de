"""The item table and given vectors are read by id; faults are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.data.items import read_given_vectors, read_items
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline_tests.data import small_data


def _layout(root: Path, item_info: dict[str, Any] | None = None, **columns: Any) -> DataLayout:
    """Return a data set with other or additional columns in item_feature."""
    changed: dict[str, Any] = {"item_feature": {**small_data.item_feature(), **columns}}
    if item_info is not None:
        changed["item_info"] = item_info
    return find_data(small_data.write_data(root, **changed))


def test_items_are_sorted_by_id_with_all_their_columns(tmp_path: Path) -> None:
    columns = {name: values[::-1] for name, values in small_data.item_feature().items()}
    items = read_items(_layout(tmp_path, **columns))
    assert items.item_id.tolist() == list(range(1, 10))
    assert items.item_id.dtype == np.int32
    assert items.title.to_pylist() == [f"video {item_id}" for item_id in range(1, 10)]
    assert [tags.tolist() for tags in items.tags] == [[item_id, 7] for item_id in range(1, 10)]
    assert items.likes_level.tolist() == list(range(1, 10))
    assert items.views_level.dtype == np.int8


def test_missing_titles_and_tags_are_allowed(tmp_path: Path) -> None:
    titles = [None, "", "  ", "four", "five", " six ", "七 🎬", "eight", "nine"]
    tags = [None, [], [0, 0], [4], [0, 5, 6], [7, 0, 8], [1], [1], [1]]
    items = read_items(_layout(tmp_path, item_title=titles, item_tags=tags))
    assert items.title.to_pylist() == [None, None, None, *titles[3:]]
    assert [values.tolist() for values in items.tags][:6] == [[], [], [], [4], [5, 6], [7, 8]]


def test_a_missing_title_stays_with_its_item_when_items_are_sorted(tmp_path: Path) -> None:
    ids = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    titles = [" ", "eight", "seven", "six", "five", "four", None, "two", "one"]
    items = read_items(_layout(tmp_path, item_id=ids, item_title=titles))
    expected = ["one", "two", None, "four", "five", "six", "seven", "eight", None]
    assert items.title.to_pylist() == expected


def test_titles_that_are_not_utf8_are_left_to_the_encoder(tmp_path: Path) -> None:
    raw = [b"lone \xed\xa0\x80", b" \xe3\x80\x80 ", b"\x00", *[b"a title"] * 6]
    layout = _layout(tmp_path, item_title=pa.array(raw, pa.binary()).view(pa.string()))
    items = read_items(layout)
    titles = items.title.cast(pa.large_binary()).to_pylist()
    assert titles[0] == raw[0]
    assert titles[1] is None, "a title of only an ideographic space was kept"
    assert titles[2:] == raw[2:]
    path = small_data.write(tmp_path / "written.parquet", {"title": items.title})
    assert pq.read_table(path).column("title").cast(pa.large_binary()).to_pylist() == titles


def test_a_padding_row_in_item_feature_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 is the padding") as error:
        read_items(_layout(tmp_path, item_id=[0, 1, 2, 3, 4, 5, 6, 7, 8]))
    assert error.value.row == 0


def test_titles_must_be_strings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not strings"):
        read_items(_layout(tmp_path, item_title=list(range(9))))


_FLOAT_LIST = pa.list_(pa.float64())


def test_given_vectors_are_read_from_item_feature(tmp_path: Path) -> None:
    vectors: list[list[float] | None] = [[float(i), 0.5] for i in range(1, 10)]
    vectors[1], vectors[2] = None, [0.0, 0.0]
    order = [8, 0, 1, 2, 3, 4, 5, 6, 7]
    columns: dict[str, Any] = {
        name: [values[i] for i in order] for name, values in small_data.item_feature().items()
    }
    given = pa.array([vectors[i] for i in order], _FLOAT_LIST)
    table = read_given_vectors(_layout(tmp_path, None, **columns, emb=given), "emb")
    assert table.item_id.tolist() == list(range(1, 10))
    assert table.vectors.dtype == np.float32
    assert table.vectors[0].tolist() == [1.0, 0.5]
    assert table.vectors[8].tolist() == [9.0, 0.5]
    assert table.present.tolist() == [True, False, False, *[True] * 6]
    assert not table.vectors[1:3].any()
    assert table.identity == "given:item_feature.emb:2"
    assert (table.provenance["n_null"], table.provenance["n_zero"]) == (1, 1)


def test_the_padding_row_is_dropped_from_vectors_in_item_info(tmp_path: Path) -> None:
    item_info = {
        "item_id": [0, 2, 1],
        "emb": pa.array([[0, 0, 0], [2, 2, 2], [1, 1, 1]], pa.list_(pa.float32(), 3)),
    }
    table = read_given_vectors(_layout(tmp_path, item_info), "emb")
    assert table.item_id.tolist() == [1, 2]
    assert table.vectors.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert table.present.all()


def test_equal_vectors_have_equal_content_hashes(tmp_path: Path) -> None:
    hashes = []
    for name, last in (("a", 9.0), ("b", 9.0), ("c", 9.5)):
        emb = [[float(i)] for i in range(1, 9)] + [[last]]
        table = read_given_vectors(_layout(tmp_path / name, emb=emb), "emb")
        hashes.append(table.provenance["content_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_column_whose_first_5000_vectors_are_missing_is_read(tmp_path: Path) -> None:
    n_items = 9000
    vectors = [None] * 5000 + [[float(i), 1.0] for i in range(5000, n_items)]
    item_info = {"item_id": np.arange(1, n_items + 1), "emb": pa.array(vectors, _FLOAT_LIST)}
    table = read_given_vectors(_layout(tmp_path, item_info), "emb")
    assert table.vectors.shape == (n_items, 2)
    assert table.present.sum() == 4000
    assert table.vectors[-1].tolist() == [8999.0, 1.0]


def test_an_unknown_vector_column_is_refused_and_known_ones_are_listed(tmp_path: Path) -> None:
    item_info = {"item_id": [0, 1], "item_emb_d128": [[0.0], [1.0]]}
    layout = _layout(tmp_path, item_info, txt_emb_BERT=[[1.0]] * 9)
    with pytest.raises(DataError) as error:
        read_given_vectors(layout, "img_emb")
    assert "item_feature.parquet has txt_emb_BERT; item_info.parquet has item_emb_d128" in str(
        error.value
    )
    with pytest.raises(DataError, match="no vector column of this name"):
        read_given_vectors(layout, "item_tags")


def test_a_column_of_zeros_or_nulls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"every vector is zero or missing.*Fix: fill in the column"
    ):
        read_given_vectors(_layout(tmp_path, emb=[[0.0, 0.0]] * 9), "emb")
    nulls = pa.array([None] * 9, _FLOAT_LIST)
    with pytest.raises(DataError, match="every vector is zero or missing"):
        read_given_vectors(_layout(tmp_path, emb=nulls), "emb")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ([1.0], "1 dimensions but the first has 2"),
        ([1.0, float("nan")], "has the value nan"),
        ([float("inf"), 1.0], "has the value inf"),
        ([None, 1.0], "has the value nan"),
    ],
)
def test_invalid_vectors_are_reported_by_row(
    tmp_path: Path, wrong: list[Any], problem: str
) -> None:
    emb = [None, [1.0, 1.0], *[[1.0, 2.0]] * 3, wrong, *[[1.0, 2.0]] * 3]
    with pytest.raises(DataError, match=problem) as error:
        read_given_vectors(_layout(tmp_path, emb=pa.array(emb, _FLOAT_LIST)), "emb")
    assert (error.value.column, error.value.row) == ("emb", 5)


def test_repeated_ids_in_item_info_are_refused(tmp_path: Path) -> None:
    item_info = {"item_id": [0, 1, 1], "emb": [[0.0], [1.0], [2.0]]}
    with pytest.raises(DataError, match="already occurs in row 1") as error:
        read_given_vectors(_layout(tmp_path, item_info), "emb")
    assert error.value.row == 2

"""Maps from ids to rows agree with plain dictionaries; ids survive conversions."""

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.ids import (
    IdMap,
    find,
    id_bytes,
    ids_from_arrays,
    ids_from_arrow,
    ids_to_arrays,
    ids_to_arrow,
    map_columns,
    with_padding,
)

FAR = 2**62
KINDS = {
    "dense": np.array([1, 2, 4, 5]),
    "sparse": np.array([3, 70, 2_000_000_000, FAR, 2**63 - 1]),
    "strings": np.array([" a", "a", "ab", "é"]),
}


@pytest.mark.parametrize(
    ("ids", "is_identity"),
    [
        ([1, 2, 3], True),
        ([1, 2, 6], True),
        ([1, 2, 7], False),
        (list(range(1, 91_718)), True),
        ([2_000_000_000], False),
        ([], True),
    ],
)
def test_integer_ids_are_row_numbers_if_the_largest_is_at_most_twice_their_count(
    ids: list[int], is_identity: bool
) -> None:
    id_map = IdMap.from_ids(np.array(ids, np.int64))
    assert id_map.is_identity == is_identity
    assert id_map.n_rows == 1 + (max(ids, default=0) if is_identity else len(ids))


def test_string_ids_are_never_row_numbers() -> None:
    assert not IdMap.from_ids(np.array(["1", "2"])).is_identity


@pytest.mark.parametrize("kind", KINDS)
def test_look_up_returns_the_row_of_an_id_and_0_for_unknown_ids(kind: str) -> None:
    ids = KINDS[kind]
    id_map = IdMap.from_ids(ids)
    row_of = dict(zip(ids.tolist(), id_map.rows.tolist(), strict=True))
    unknown = ["", "b", "aa", "zz"] if kind == "strings" else [0, 3_000_000_000, FAR + 1, 60]
    asked = [*unknown, *reversed(ids.tolist()), *unknown]
    expected = [row_of.get(item, 0) for item in asked]
    rows = id_map.look_up(np.array(asked))
    assert rows.tolist() == expected
    assert rows.dtype == np.int32
    if kind == "strings":
        assert id_map.look_up(pa.array(asked, pa.large_string())).tolist() == expected
    else:
        assert id_map.look_up(np.array(asked, np.uint64)).tolist() == expected
    assert id_map.ids_at(id_map.rows).tolist() == ids.tolist()
    assert id_map.ids_at(np.zeros(1, np.int64)).tolist() == with_padding(ids)[:1].tolist()


def test_an_empty_map_finds_no_id() -> None:
    for ids in (np.zeros(0, np.int64), np.zeros(0, "U1")):
        assert IdMap(ids, is_identity=False).look_up(np.array([1, 5])).tolist() == [0, 0]


def test_a_string_never_equals_an_integer() -> None:
    assert not find(np.array(["1"]), np.array([1]))[1].any()
    assert not find(np.array([1]), np.array(["1"]))[1].any()
    assert IdMap.from_ids(np.array([1])).look_up(pa.array(["1"], pa.large_string())).tolist() == [0]


def test_large_unsigned_integers_are_not_compared_as_floats() -> None:
    assert not find(np.array([FAR + 1], np.uint64), np.array([FAR]))[1].any()


@pytest.mark.parametrize("ids", [[2, 1], [1, 1]])
def test_ids_of_a_map_must_be_distinct_and_ascending(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct and ascending"):
        IdMap(np.array(ids), is_identity=False)


def test_dense_columns_need_no_map() -> None:
    id_map, rows = map_columns([np.array([3, 1]), np.array([2]), np.array([3])])
    assert id_map is None
    assert rows.tolist() == [3, 1, 2, 3]
    assert rows.dtype == np.int32


def test_columns_of_sparse_integers_share_a_map() -> None:
    id_map, rows = map_columns([np.array([FAR, 7]), np.array([2_000_000_000, 7])])
    assert id_map is not None
    assert id_map.ids.tolist() == [7, 2_000_000_000, FAR]
    assert rows.tolist() == [3, 1, 2, 1]
    # The largest value, 9, is below twice the number of rows, but above twice the number of ids.
    id_map, rows = map_columns([np.array([9, 9, 9, 9, 1])])
    assert id_map is not None
    assert rows.tolist() == [2, 2, 2, 2, 1]


def test_columns_of_strings_share_a_map() -> None:
    blocks = [["b", "a"], ["c", "c"], ["a", " b"], []]
    chunks = [pa.array(block, pa.large_string()).dictionary_encode() for block in blocks]
    id_map, rows = map_columns([pa.chunked_array(chunks[:2]), pa.chunked_array(chunks[2:])])
    assert id_map is not None
    assert id_map.ids.tolist() == [" b", "a", "b", "c"]
    assert rows.tolist() == [3, 2, 4, 4, 2, 1]
    assert rows.dtype == np.int32


@pytest.mark.parametrize("kind", KINDS)
def test_ids_survive_conversion_to_arrow_and_to_model_arrays(kind: str) -> None:
    ids = KINDS[kind]
    for again in (ids_from_arrow(ids_to_arrow(ids)), ids_from_arrays(ids_to_arrays(ids))):
        assert again.tolist() == ids.tolist()
        assert again.dtype.kind == ids.dtype.kind


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"integers": np.array([0.5])},
        {"lengths": np.array([1, 1]), "utf8": np.frombuffer(b"a", np.uint8)},
        {"lengths": np.array([0, 1]), "utf8": np.frombuffer(b"a", np.uint8)},
        {"lengths": np.array([1]), "utf8": np.frombuffer(b"\xff", np.uint8)},
        {"lengths": np.array([1])},
    ],
    ids=["nothing", "floats", "text too short", "empty id", "not UTF-8", "no text"],
)
def test_damaged_ids_of_a_model_file_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises((ValueError, TypeError)):
        ids_from_arrays(arrays)


def test_different_ids_have_different_bytes() -> None:
    encoded = [
        id_bytes(ids)
        for ids in (*KINDS.values(), np.array(["a", "b"]), np.array(["ab"]), np.array(["ab", "c"]))
    ]
    assert len(set(encoded)) == len(encoded)
    # Ids that fit into int32 are encoded as int32, as in earlier versions, whatever their dtype.
    assert id_bytes(np.array([1, 5])) == np.array([1, 5], np.int32).tobytes()
    # The width of a string dtype makes no difference.
    assert id_bytes(np.array(["a", "b"], "U9")) == id_bytes(np.array(["a", "b"]))

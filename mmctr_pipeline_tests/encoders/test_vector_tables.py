"""Vectors from encoders and from given columns become tables with their provenance."""

import logging

import numpy as np
import pytest

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.store.lookup import StoreResult
from mmctr_pipeline.encoders.vector_tables import (
    EncoderInfo,
    encoded_table,
    given_table,
    mean_parity,
    parity_notes,
    parity_rows,
)

GIVEN = VectorTable(
    item_id=np.array([2, 4, 6], dtype=np.int32),
    vectors=np.array([[2, 2], [0, 0], [6, 6]], dtype=np.float32),
    present=np.array([True, False, True]),
    identity="given:column",
    provenance={"column": "txt_emb_BERT"},
)


def test_given_vectors_are_joined_by_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = given_table(np.array([1, 2, 4, 6]), GIVEN, "txt_emb_BERT")
    assert table.item_id.tolist() == [1, 2, 4, 6]
    assert table.present.tolist() == [False, True, False, True]
    assert table.vectors.tolist() == [[0, 0], [2, 2], [0, 0], [6, 6]]
    assert table.identity == "given:column"
    assert table.provenance["counts"] == {"items": 4, "given": 2, "missing": 2, "outliers": 0}
    assert caplog.messages == ["2 of 4 items have a vector in column txt_emb_BERT"]


def test_an_outlying_vector_from_an_encoder_counts_as_missing() -> None:
    vectors = np.ones((6, 3), np.float32)
    vectors[4] = 1e9
    result = StoreResult(vectors, {}, n_encoded=6, n_reused=0, notes=[])
    encoder = EncoderInfo("kind", "name", "source", "0" * 64, "settings", "float32", "cpu")
    ids, rows = np.arange(1, 8), np.array([0, 1, 2, 4, 5, 6])
    table = encoded_table(ids, rows, result, encoder, TextEncoderConfig(), {}, 0.0)
    assert table.present.tolist() == [True, True, True, False, True, False, True]
    assert not table.vectors[5].any()
    assert table.provenance["outliers"][0]["item_id"] == 6


def test_missing_table_and_unmatched_items_raise() -> None:
    with pytest.raises(ValueError, match=r"no vectors were read.*column 'txt_emb_BERT'"):
        given_table(np.array([1]), None, "txt_emb_BERT")
    with pytest.raises(ValueError, match="none for the 2 items"):
        given_table(np.array([1, 3]), GIVEN, "txt_emb_BERT")


@pytest.mark.parametrize(
    ("n_rows", "n_wanted", "expected"),
    [(1, 8, [0]), (3, 8, [0, 1, 2]), (8, 8, list(range(8))), (101, 3, [0, 50, 100]), (9, 1, [0])],
)
def test_compared_rows_are_evenly_spaced(n_rows: int, n_wanted: int, expected: list[int]) -> None:
    assert parity_rows(n_rows, n_wanted).tolist() == expected


def test_parity_is_the_mean_cosine_over_the_rows_of_all_shards() -> None:
    # Cosines 1 and 0.6 in one shard, -0.8 in another; lengths do not matter.
    first = parity_notes(np.array([[2.0, 0.0], [3.0, 4.0]]), np.array([[9.0, 0.0], [1.0, 0.0]]))
    second = parity_notes(np.array([[0.0, 1.0]]), np.array([[6.0, -8.0]], np.float32))
    assert first == pytest.approx({"parity_n": 2, "parity_sum": 1.6, "parity_min": 0.6})
    expected = {"compared": 3, "mean_cosine": 0.8 / 3, "least_cosine": -0.8}
    assert mean_parity([first, {}, second]) == pytest.approx(expected)


def test_zero_vector_has_cosine_zero() -> None:
    notes = parity_notes(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    assert mean_parity([notes]) == {"compared": 1, "mean_cosine": 0, "least_cosine": 0}


def test_no_compared_rows_give_no_parity() -> None:
    assert mean_parity([]) is None
    assert mean_parity([{}, {"other": "note"}]) is None

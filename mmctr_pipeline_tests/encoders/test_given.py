import logging

import numpy as np
import pytest

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.given import take_given

GIVEN = VectorTable(
    item_id=np.array([2, 4, 6], dtype=np.int32),
    vectors=np.array([[2, 2], [0, 0], [6, 6]], dtype=np.float32),
    present=np.array([True, False, True]),
    identity="given:column",
    provenance={"column": "txt_emb_BERT"},
)


def test_given_vectors_are_joined_by_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = take_given(np.array([1, 2, 4, 6]), GIVEN, "txt_emb_BERT")
    assert table.item_id.tolist() == [1, 2, 4, 6]
    assert table.present.tolist() == [False, True, False, True]
    assert table.vectors.tolist() == [[0, 0], [2, 2], [0, 0], [6, 6]]
    assert table.identity == "given:column"
    assert table.provenance["counts"] == {"items": 4, "given": 2, "missing": 2}
    assert caplog.messages == ["2 of 4 items have a vector in column txt_emb_BERT"]


def test_no_table_and_no_matching_item_are_errors() -> None:
    with pytest.raises(ValueError, match="no vectors were read; column 'txt_emb_BERT'"):
        take_given(np.array([1]), None, "txt_emb_BERT")
    with pytest.raises(ValueError, match="none for the 2 items"):
        take_given(np.array([1, 3]), GIVEN, "txt_emb_BERT")

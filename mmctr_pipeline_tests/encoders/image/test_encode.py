"""Every item gets the vector of its cover, or a reason why it has none."""

import dataclasses
import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import PIL
import pytest
import torch
from PIL import Image

from mmctr_pipeline.data.images import ImageIndex, index_images
from mmctr_pipeline.data.validation import DataNotFoundError
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.encode import MISSING as NO_FILE
from mmctr_pipeline.encoders.image.encode import ImageEncoding, encode_images
from mmctr_pipeline.encoders.image.inference import ImageChangedError
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline_tests.encoders.image.broken_images import (
    AS_OPEN_CLIP,
    BROKEN,
    GOOD,
    ITEM_ID,
    MISSING,
    encoded,
    picture,
    write_broken_images,
)
from mmctr_pipeline_tests.encoders.small_models import CLIP_DIM, write_clip
from mmctr_pipeline_tests.encoders.store.vector_store_runs import WatchedStore

# Pillow warns when open_clip reads the file with a corrupt EXIF block.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoderConfig:
    folder = write_clip(tmp_path_factory.mktemp("models") / "clip", seed=0)
    return ImageEncoderConfig(model=f"local-dir:{folder}", batch_size=4, precision="float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("item_images")
    write_broken_images(folder)
    return index_images(folder)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def encoding(config: ImageEncoderConfig, images: ImageIndex, vectors: Path) -> ImageEncoding:
    return encode_images(ITEM_ID, images, config, "cpu", VectorStore(vectors))


def encode(
    item_id: Sequence[int], folder: Path, config: ImageEncoderConfig, store: VectorStore
) -> ImageEncoding:
    return encode_images(np.array(item_id), index_images(folder), config, "cpu", store)


def encoded_and_reused(encoding: ImageEncoding) -> tuple[int, int]:
    counts = encoding.table.provenance["counts"]
    return counts["encoded"], counts["reused"]


def write_pictures(folder: Path, item_id: Sequence[int]) -> Path:
    folder.mkdir()
    for item in item_id:
        (folder / f"{item}.jpg").write_bytes(encoded(picture(item), "JPEG"))
    return folder


def test_vectors_equal_open_clip_one_image_at_a_time(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex
) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(config.model)
    with torch.inference_mode():
        expected = [
            model.eval().encode_image(preprocess(Image.open(images.path(item)))[None])[0].numpy()
            for item in AS_OPEN_CLIP
        ]
    table = encoding.table
    assert table.vectors.shape == (len(ITEM_ID), CLIP_DIM)
    assert table.vectors.dtype == np.float32
    found = table.vectors[np.searchsorted(ITEM_ID, AS_OPEN_CLIP)]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5, rtol=0)
    # The vectors are neither normalised nor similar, so that a wrong order would fail above.
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.05
    differences = [np.abs(a - b).max() for a, b in itertools.pairwise(expected)]
    # Files 32 and 33 show the same picture, stored with little loss and without loss.
    assert sorted(differences)[1] > 0.01


def test_every_item_has_a_vector_or_a_reason(encoding: ImageEncoding, images: ImageIndex) -> None:
    table = encoding.table
    assert table.item_id.tolist() == ITEM_ID.tolist()
    assert table.item_id[table.present].tolist() == sorted(GOOD)
    assert not table.vectors[~table.present].any()
    assert table.vectors[table.present].any(axis=1).all()
    expected = BROKEN | dict.fromkeys(MISSING, NO_FILE)
    rows = encoding.problems.to_pylist()
    assert {row["item_id"]: row["reason"] for row in rows} == expected
    assert [row["item_id"] for row in rows] == sorted(expected)
    assert all(row["path"] == f"{images.folder}/{row['item_id']}.jpg" for row in rows)
    contents = {hashlib.sha256(images.path(item).read_bytes()).digest() for item in GOOD}
    counts = table.provenance["counts"]
    assert counts["items"] == len(ITEM_ID)
    assert encoded_and_reused(encoding) == (len(contents), 0)
    assert (counts["missing"], counts["unreadable"]) == (len(MISSING), len(BROKEN))
    assert counts["reasons"] == Counter(expected.values())


def test_second_call_encodes_nothing_and_returns_equal_vectors_and_problems(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex, vectors: Path
) -> None:
    store = WatchedStore(vectors)
    again = encode_images(ITEM_ID, images, config, "cpu", store)
    assert store.n_tried == 0
    assert encoded_and_reused(again) == (0, encoding.table.provenance["counts"]["encoded"])
    assert again.table.vectors.tobytes() == encoding.table.vectors.tobytes()
    assert again.problems.equals(encoding.problems)


def test_another_version_of_pillow_retries_unreadable_files(
    images: ImageIndex,
    config: ImageEncoderConfig,
    vectors: Path,
    encoding: ImageEncoding,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(vectors, tmp_path / "vectors")
    monkeypatch.setattr(PIL, "__version__", "99.0")
    store = WatchedStore(tmp_path / "vectors")
    again = encode_images(ITEM_ID, images, config, "cpu", store)
    # Only broken files whose bytes can be read are tried.
    files = [images.path(item) for item in BROKEN if images.path(item).is_file()]
    contents = {path.read_bytes() for path in files} - {b""}
    assert store.n_tried == len(contents) > 5
    assert again.problems.equals(encoding.problems)


def test_only_changed_covers_are_encoded_and_equal_ones_once(
    config: ImageEncoderConfig, tmp_path: Path
) -> None:
    folder, store = write_pictures(tmp_path / "images", range(1, 8)), VectorStore(tmp_path / "v")
    shutil.copy(folder / "2.jpg", folder / "7.jpg")
    before = encode(range(1, 8), folder, config, store)
    assert encoded_and_reused(before) == (6, 0)
    table = before.table
    np.testing.assert_array_equal(table.vectors[6], table.vectors[1])

    (folder / "3.jpg").write_bytes(encoded(picture(33), "JPEG"))
    after = encode(range(1, 8), folder, config, store)
    assert encoded_and_reused(after) == (1, 5)
    same = [0, 1, 3, 4, 5, 6]
    assert after.table.vectors[same].tobytes() == table.vectors[same].tobytes()
    assert np.abs(after.table.vectors[2] - table.vectors[2]).max() > 0.01

    # Known covers are reused under other ids and in another order.
    (folder / "9.jpg").write_bytes((folder / "1.jpg").read_bytes())
    moved = encode([2, 9], folder, config, store)
    assert encoded_and_reused(moved) == (0, 2)
    assert moved.table.vectors.tobytes() == table.vectors[[1, 0]].tobytes()


def test_file_that_changes_during_encoding_raises_and_stores_nothing(
    config: ImageEncoderConfig, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "images", [1, 2, 3])
    other = encoded(picture(99), "JPEG")
    store = WatchedStore(tmp_path / "v", before=lambda: (folder / "2.jpg").write_bytes(other))
    with pytest.raises(ImageChangedError, match=r"2\.jpg changed while it was encoded: run again"):
        encode([1, 2, 3], folder, config, store)
    gone = WatchedStore(tmp_path / "v", before=(folder / "2.jpg").unlink)
    with pytest.raises(ImageChangedError, match=r"2\.jpg.*was readable a moment ago"):
        encode([1, 2, 3], folder, config, gone)
    (folder / "2.jpg").write_bytes(other)
    again = encode([1, 2, 3], folder, config, VectorStore(tmp_path / "v"))
    assert encoded_and_reused(again) == (3, 0)
    assert again.table.present.all()


def test_shard_without_readable_images_keeps_earlier_vectors(
    config: ImageEncoderConfig, tmp_path: Path
) -> None:
    folder, store = write_pictures(tmp_path / "images", [1, 2]), VectorStore(tmp_path / "v")
    before = encode([1, 2], folder, config, store)
    (folder / "3.jpg").write_bytes(b"no image")
    # The only new file is unreadable.
    after = encode([1, 2, 3], folder, config, store)
    assert after.table.present.tolist() == [True, True, False]
    assert after.table.vectors[:2].tobytes() == before.table.vectors.tobytes()
    assert after.problems.column("reason").to_pylist() == ["not an image"]


def test_batch_size_does_not_change_the_result(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    single = dataclasses.replace(config, batch_size=1)
    again = encode_images(ITEM_ID, images, single, "cpu", VectorStore(tmp_path)).table
    assert again.provenance["counts"] == encoding.table.provenance["counts"]
    np.testing.assert_allclose(again.vectors, encoding.table.vectors, atol=1e-5, rtol=0)
    assert again.identity == encoding.table.identity


def test_identity_depends_on_weights_preprocessing_and_precision_but_not_the_folder(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    def identity(folder: Path, precision: str = "float32") -> str:
        other = ImageEncoderConfig(model=f"local-dir:{folder}", precision=precision)
        store = VectorStore(tmp_path / "v")
        return encode_images(ITEM_ID[:1], images, other, "cpu", store).table.identity

    (tmp_path / "other").mkdir()
    same = write_clip(tmp_path / "other" / "clip", seed=0)
    known = encoding.table.identity
    assert identity(same) == known
    assert str(tmp_path) not in known
    assert identity(same, "bfloat16") == known.replace("float32", "bfloat16") != known

    config_file = same / "open_clip_config.json"
    config_file.write_text(config_file.read_text().replace("0.25", "0.26"))
    assert identity(same) != known
    assert identity(write_clip(tmp_path / "clip", seed=1)) != known


def test_parity_with_float32_is_recorded_and_stored(
    config: ImageEncoderConfig, tmp_path: Path, encoding: ImageEncoding
) -> None:
    assert encoding.table.provenance["parity"] is None
    folder, store = write_pictures(tmp_path / "images", [1, 2, 3]), VectorStore(tmp_path / "v")
    half = dataclasses.replace(config, precision="bfloat16")
    first = encode([1, 2, 3], folder, half, store).table.provenance["parity"]
    assert 1 <= first["compared"] <= 3
    assert 0.99 < first["least_cosine"] <= first["mean_cosine"] < 0.9999999
    assert encode([1, 2, 3], folder, half, store).table.provenance["parity"] == first


def test_source_given_and_source_none_need_no_images(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    none = encode_images(ITEM_ID, None, ImageEncoderConfig(source="none"), "cpu", store)
    assert none.table.identity == "none"
    assert none.table.vectors.shape == (len(ITEM_ID), 1)
    assert not none.table.present.any()
    assert none.problems.num_rows == 0
    ones = np.ones((len(ITEM_ID), 3), np.float32)
    given = VectorTable(ITEM_ID, ones, ones[:, 0] > 0, "given:c")
    config = ImageEncoderConfig(source="given", column="c")
    result = encode_images(ITEM_ID, None, config, "cpu", store, given)
    assert result.table.identity == "given:c"
    assert result.table.present.all()
    assert not list(tmp_path.iterdir())


def test_missing_folder_unmatched_names_and_unreadable_images_raise(
    config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    store = VectorStore(tmp_path / "v")
    with pytest.raises(DataNotFoundError, match=r"looked for item_images, images.*text_only"):
        encode_images(ITEM_ID, None, config, "cpu", store)
    with pytest.raises(DataNotFoundError, match=r"looked for names such as 91\.jpg"):
        encode_images(np.array([91, 92]), images, config, "cpu", store)
    folder = write_pictures(tmp_path / "broken", [])
    (folder / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images .*\(1 empty file"):
        encode([1, 3], folder, config, store)
    (folder / "2.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"none of the 2 images .*1 not an image.*text_only"):
        encode([1, 2, 3], folder, config, store)


def test_covers_with_mixed_names_and_string_ids_are_encoded(
    config: ImageEncoderConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "item_images"
    for seed, name in enumerate(["a/1.JPG", "image2.png", "3.jpeg", "x y.webp", "é.jpg"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"png": "PNG", "webp": "WEBP"}.get(name.rpartition(".")[2], "JPEG")
        (folder / name).write_bytes(encoded(picture(seed), kind))
    (folder / "secret.jpg").symlink_to("/etc/passwd")
    ids = np.array(["1", "2", "3", "lost", "secret", "x y", "é"])
    result = encode_images(ids, index_images(folder), config, "cpu", VectorStore(tmp_path / "v"))
    assert result.table.item_id[result.table.present].tolist() == ["1", "2", "3", "x y", "é"]
    assert result.problems.to_pylist() == [
        {"item_id": item, "path": f"{folder}/{item}.jpg", "reason": reason}
        for item, reason in (("lost", NO_FILE), ("secret", "a link out of the data folder"))
    ]
    assert result.table.provenance["counts"]["unreadable"] == 1

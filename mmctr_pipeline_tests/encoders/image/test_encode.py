import dataclasses
import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import PIL
import pytest
import torch
from PIL import Image

from mmctr_pipeline.data.discovery import DataNotFoundError, ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.encode import MISSING as NO_FILE
from mmctr_pipeline.encoders.image.encode import ImageEncoding, encode_images
from mmctr_pipeline.encoders.image.inference import ImageChangedError, in_threads
from mmctr_pipeline.encoders.store.vector_store import EncodeShard, StoreResult, VectorStore
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

# Said by Pillow where open_clip reads the file with a corrupt EXIF block.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")


class WatchedStore(VectorStore):
    """Counts what is encoded, and lets something happen before a shard is."""

    def __init__(self, folder: Path, before: Callable[[], object] = lambda: None) -> None:
        super().__init__(folder)
        self.n_tried = 0
        self._before = before

    def get_or_encode(
        self,
        identity: str,
        contents: Sequence[bytes],
        encode: EncodeShard,
        *,
        shard_size: int,
        reader: str,
        unit: str = "contents",
    ) -> StoreResult:
        def watched(positions: np.ndarray):
            self.n_tried += len(positions)
            self._before()
            return encode(positions)

        return super().get_or_encode(
            identity, contents, watched, shard_size=shard_size, reader=reader, unit=unit
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoderConfig:
    folder = write_clip(tmp_path_factory.mktemp("models") / "clip", seed=0)
    return ImageEncoderConfig(model=f"local-dir:{folder}", batch_size=4, precision="float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("item_images")
    write_broken_images(folder)
    return ImageIndex(folder, "{item_id}.jpg", len(GOOD) + len(BROKEN))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def encoding(config: ImageEncoderConfig, images: ImageIndex, vectors: Path) -> ImageEncoding:
    return encode_images(ITEM_ID, images, config, "cpu", VectorStore(vectors))


def encode(
    item_id: Sequence[int], folder: Path, config: ImageEncoderConfig, store: VectorStore
) -> ImageEncoding:
    index = ImageIndex(folder, "{item_id}.jpg", len(item_id))
    return encode_images(np.array(item_id), index, config, "cpu", store)


def encoded_and_reused(encoding: ImageEncoding) -> tuple[int, int]:
    counts = encoding.table.provenance["counts"]
    return counts["encoded"], counts["reused"]


def write_pictures(folder: Path, item_id: Sequence[int]) -> Path:
    folder.mkdir()
    for item in item_id:
        (folder / f"{item}.jpg").write_bytes(encoded(picture(item), "JPEG"))
    return folder


def test_vectors_are_those_of_open_clip_one_image_at_a_time(
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
    # Neither normalised nor alike, so that a wrong order would have been noticed.
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.05
    differences = [np.abs(a - b).max() for a, b in itertools.pairwise(expected)]
    # 32 and 33 show one picture, as files that lose next to nothing and nothing.
    assert sorted(differences)[1] > 0.01


def test_no_item_is_lost_and_every_problem_has_its_reason(
    encoding: ImageEncoding, images: ImageIndex
) -> None:
    table = encoding.table
    assert table.item_id.tolist() == ITEM_ID.tolist()
    assert table.item_id[table.present].tolist() == sorted(GOOD)
    assert not table.vectors[~table.present].any()
    assert table.vectors[table.present].any(axis=1).all()
    expected = BROKEN | dict.fromkeys(MISSING, NO_FILE)
    rows = encoding.problems.to_pylist()
    assert {row["item_id"]: row["reason"] for row in rows} == expected
    assert [row["item_id"] for row in rows] == sorted(expected)
    assert all(row["path"] == str(images.path(row["item_id"])) for row in rows)
    contents = {hashlib.sha256(images.path(item).read_bytes()).digest() for item in GOOD}
    counts = table.provenance["counts"]
    assert (counts["items"], counts["encoded"], counts["reused"]) == (
        len(ITEM_ID),
        len(contents),
        0,
    )
    assert (counts["missing"], counts["unreadable"]) == (len(MISSING), len(BROKEN))
    assert counts["reasons"] == Counter(expected.values())


def test_a_second_call_encodes_nothing_gives_equal_bits_and_all_problems_again(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex, vectors: Path
) -> None:
    store = WatchedStore(vectors)
    again = encode_images(ITEM_ID, images, config, "cpu", store)
    assert store.n_tried == 0
    assert encoded_and_reused(again) == (0, encoding.table.provenance["counts"]["encoded"])
    assert again.table.vectors.tobytes() == encoding.table.vectors.tobytes()
    assert again.problems.equals(encoding.problems)


def test_what_could_not_be_read_is_tried_again_by_another_pillow(
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
    # Those among the broken whose bytes could be had at least.
    had = [images.path(item) for item in BROKEN if images.path(item).is_file()]
    contents = {path.read_bytes() for path in had} - {b""}
    assert store.n_tried == len(contents) > 5
    assert again.problems.equals(encoding.problems)


def test_only_what_changed_is_encoded_and_equal_covers_once(
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

    # Under other ids, and with the covers in another order, they are known as well.
    (folder / "9.jpg").write_bytes((folder / "1.jpg").read_bytes())
    moved = encode([2, 9], folder, config, store)
    assert encoded_and_reused(moved) == (0, 2)
    assert moved.table.vectors.tobytes() == table.vectors[[1, 0]].tobytes()


def test_a_file_that_is_written_to_meanwhile_is_an_error_and_nothing_is_remembered(
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


def test_a_shard_without_any_readable_image_leaves_the_others_theirs(
    config: ImageEncoderConfig, tmp_path: Path
) -> None:
    folder, store = write_pictures(tmp_path / "images", [1, 2]), VectorStore(tmp_path / "v")
    before = encode([1, 2], folder, config, store)
    (folder / "3.jpg").write_bytes(b"no image")
    # All that is new is unreadable.
    after = encode([1, 2, 3], folder, config, store)
    assert after.table.present.tolist() == [True, True, False]
    assert after.table.vectors[:2].tobytes() == before.table.vectors.tobytes()
    assert after.problems.column("reason").to_pylist() == ["not an image"]


def test_the_batch_size_is_no_part_of_the_result(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    single = dataclasses.replace(config, batch_size=1)
    again = encode_images(ITEM_ID, images, single, "cpu", VectorStore(tmp_path)).table
    assert again.provenance["counts"] == encoding.table.provenance["counts"]
    np.testing.assert_allclose(again.vectors, encoding.table.vectors, atol=1e-5, rtol=0)
    assert again.identity == encoding.table.identity


def test_the_identity_follows_weights_preprocessing_and_precision_and_not_the_place(
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


def test_parity_with_float32_is_recorded_and_remembered(
    config: ImageEncoderConfig, tmp_path: Path, encoding: ImageEncoding
) -> None:
    assert encoding.table.provenance["parity"] is None
    folder, store = write_pictures(tmp_path / "images", [1, 2, 3]), VectorStore(tmp_path / "v")
    half = dataclasses.replace(config, precision="bfloat16")
    first = encode([1, 2, 3], folder, half, store).table.provenance["parity"]
    assert 1 <= first["compared"] <= 3
    assert 0.99 < first["least_cosine"] <= first["mean_cosine"] < 0.9999999
    assert encode([1, 2, 3], folder, half, store).table.provenance["parity"] == first


def test_given_and_none_need_no_images(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    config = ImageEncoderConfig(source="none")
    none = encode_images(ITEM_ID, None, config, "cpu", store)
    assert none.table.identity == "none"
    assert none.table.vectors.shape == (len(ITEM_ID), 1)
    assert not none.table.present.any()
    assert none.problems.num_rows == 0

    ones = np.ones((len(ITEM_ID), 3), np.float32)
    given = VectorTable(ITEM_ID, ones, np.ones(len(ITEM_ID), bool), "given:c")
    config = ImageEncoderConfig(source="given", column="c")
    result = encode_images(ITEM_ID, None, config, "cpu", store, given)
    assert result.table.identity == "given:c"
    assert result.table.present.all()
    assert not list(tmp_path.iterdir())


def test_no_folder_no_match_and_nothing_readable_are_errors(
    config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    store = VectorStore(tmp_path / "v")
    with pytest.raises(DataNotFoundError, match=r"looked for item_images, images.*text_only"):
        encode_images(ITEM_ID, None, config, "cpu", store)
    with pytest.raises(DataNotFoundError, match=r"looked for names such as 91\.jpg"):
        encode_images(np.array([91, 92]), images, config, "cpu", store)
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images .*'empty file': 1"):
        encode([1, 3], folder, config, store)
    (folder / "2.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"none of the 2 images .*'not an image': 1.*text_only"):
        encode([1, 2, 3], folder, config, store)


class Recorded(list[int]):
    """Numbers that remember how many of them were taken."""

    n_taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in super().__iter__():
            self.n_taken += 1
            yield number


def test_work_in_threads_keeps_its_order_and_stays_a_few_ahead() -> None:
    numbers = Recorded(range(50))
    results = in_threads(lambda number: number * number, numbers, 5)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert numbers.n_taken <= 3 + 5
    assert list(results) == [number * number for number in range(3, 50)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, [2, 1, 0], 2))

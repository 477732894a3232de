import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mmctr_pipeline.data.discovery import DataNotFoundError, ImageIndex
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image import ImageEncoding, encode_images
from mmctr_pipeline_tests.encoders.broken_images import (
    BROKEN,
    GOOD,
    ITEM_ID,
    MISSING,
    write_broken_images,
)

pytestmark = pytest.mark.filterwarnings("ignore:Image size")

DIM = 24
CLIP = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}
PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": 32}


def write_clip(folder: Path, seed: int) -> Path:
    """Write a tiny open_clip model with random weights, in open_clip's own format."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = open_clip.CLIP(CLIP["embed_dim"], CLIP["vision_cfg"], CLIP["text_cfg"])  # type: ignore[arg-type]
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoderConfig:
    folder = write_clip(tmp_path_factory.mktemp("models") / "clip", seed=0)
    return ImageEncoderConfig(model=f"local-dir:{folder}", batch_size=4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp("item_images")
    write_broken_images(folder)
    return ImageIndex(folder, "{item_id}.jpg", len(GOOD) + len(BROKEN))


@pytest.fixture(scope="module")
def encoding(config: ImageEncoderConfig, images: ImageIndex) -> ImageEncoding:
    return encode_images(ITEM_ID, images, config, "cpu", lambda line: None)


def test_vectors_are_those_of_open_clip_one_image_at_a_time(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex
) -> None:
    model, preprocess = open_clip.create_model_from_pretrained(config.model)
    with torch.inference_mode():
        expected = [
            model.eval().encode_image(preprocess(Image.open(images.path(item)))[None])[0].numpy()
            for item in GOOD
        ]
    table = encoding.table
    assert table.vectors.shape == (len(ITEM_ID), DIM)
    assert table.vectors.dtype == np.float32
    rows = np.searchsorted(ITEM_ID, list(GOOD))
    np.testing.assert_allclose(table.vectors[rows], np.stack(expected), atol=1e-5)
    # Neither normalised nor alike, so that a wrong order would have been noticed.
    assert np.abs(np.linalg.norm(table.vectors[rows], axis=1) - 1).max() > 0.05
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(expected)) > 1e-3


def test_no_item_is_lost_and_every_problem_has_its_reason(
    encoding: ImageEncoding, images: ImageIndex
) -> None:
    table = encoding.table
    assert table.item_id.tolist() == ITEM_ID.tolist()
    assert table.item_id[table.present].tolist() == list(GOOD)
    assert not table.vectors[~table.present].any()
    expected = BROKEN | dict.fromkeys(MISSING, "no file")
    rows = encoding.problems.to_pylist()
    assert {row["item_id"]: row["reason"] for row in rows} == expected
    assert [row["item_id"] for row in rows] == sorted(expected)
    assert all(row["path"] == str(images.path(row["item_id"])) for row in rows)
    counts = table.provenance["counts"]
    assert (counts["items"], counts["encoded"]) == (len(ITEM_ID), len(GOOD))
    assert (counts["missing"], counts["unreadable"]) == (len(MISSING), len(BROKEN))
    assert counts["reasons"] == dict.fromkeys(BROKEN.values(), 1) | {"no file": 2}


def test_the_batch_size_is_no_part_of_the_result(
    encoding: ImageEncoding, config: ImageEncoderConfig, images: ImageIndex
) -> None:
    again = encode_images(
        ITEM_ID, images, dataclasses.replace(config, batch_size=1), "cpu", lambda line: None
    )
    np.testing.assert_allclose(again.table.vectors, encoding.table.vectors, atol=1e-5)
    assert again.table.identity == encoding.table.identity


def test_the_identity_follows_weights_and_preprocessing_and_not_the_place(
    encoding: ImageEncoding, images: ImageIndex, tmp_path: Path
) -> None:
    def identity(folder: Path) -> str:
        config = ImageEncoderConfig(model=f"local-dir:{folder}")
        one = ITEM_ID[:1]
        return encode_images(one, images, config, "cpu", lambda line: None).table.identity

    (tmp_path / "other").mkdir()
    same = write_clip(tmp_path / "other" / "clip", seed=0)
    assert identity(same) == encoding.table.identity
    assert str(tmp_path) not in encoding.table.identity

    config_file = same / "open_clip_config.json"
    config_file.write_text(config_file.read_text().replace("0.25", "0.26"))
    assert identity(same) != encoding.table.identity
    assert identity(write_clip(tmp_path / "clip", seed=1)) != encoding.table.identity


def test_given_and_none_need_no_images() -> None:
    config = ImageEncoderConfig(source="none")
    none = encode_images(ITEM_ID, None, config, "cpu", lambda line: None)
    assert none.table.identity == "none"
    assert none.table.vectors.shape == (len(ITEM_ID), 1)
    assert not none.table.present.any()
    assert none.problems.num_rows == 0

    vectors = np.ones((len(ITEM_ID), 3), np.float32)
    given = VectorTable(ITEM_ID, vectors, np.ones(len(ITEM_ID), bool), "given:c")
    config = ImageEncoderConfig(source="given", column="c")
    result = encode_images(ITEM_ID, None, config, "cpu", lambda line: None, given)
    assert result.table.identity == "given:c"
    assert result.table.present.all()


def test_no_folder_no_match_and_nothing_readable_are_errors(
    config: ImageEncoderConfig, images: ImageIndex, tmp_path: Path
) -> None:
    with pytest.raises(DataNotFoundError, match=r"looked for item_images, images.*text_only"):
        encode_images(ITEM_ID, None, config, "cpu", lambda line: None)
    with pytest.raises(DataNotFoundError, match=r"looked for names such as 91\.jpg"):
        encode_images(np.array([91, 92]), images, config, "cpu", lambda line: None)
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "2.jpg").write_text("no image")
    broken = ImageIndex(tmp_path, "{item_id}.jpg", 2)
    with pytest.raises(ValueError, match=r"not one of the 2 images .*'empty file': 1"):
        encode_images(np.array([1, 2, 3]), broken, config, "cpu", lambda line: None)

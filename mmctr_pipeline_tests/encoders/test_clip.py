"""CLIP models load in float32 with the preprocessing and activation of their weights."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mmctr_pipeline.encoders.clip import LoadedClip, load_clip
from mmctr_pipeline.encoders.image.pixels import PixelSpec
from mmctr_pipeline.encoders.locate import locate_image_model
from mmctr_pipeline_tests.encoders.small_models import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip", seed=0)


@pytest.fixture
def clip(folder: Path) -> LoadedClip:
    return load_clip(locate_image_model(f"local-dir:{folder}"), "cpu")


def test_model_is_in_float32_and_evaluation_mode(clip: LoadedClip) -> None:
    # The packaged model is stored in float16.
    for loaded in (clip, load_clip(locate_image_model("tiny-clip"), "cpu")):
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
        assert not any(module.training for module in loaded.model.modules())


def test_pixel_spec_and_tokeniser_are_those_of_the_model(clip: LoadedClip) -> None:
    assert clip.pixels == PixelSpec(
        size=(32, 32),
        interpolation="bicubic",
        resize_mode="shortest",
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
    )
    tokenize = clip.tokenizer()
    assert tokenize(["a cat", "cat " * 100]).shape == (2, 8)
    assert tokenize(["a cat"], context_length=9).shape == (1, 9)


def test_the_two_towers_are_hashed_separately(clip: LoadedClip) -> None:
    image, text = clip.image_weights_hash(), clip.text_weights_hash()
    assert len(image) == len(text) == 64
    assert image != text
    with torch.no_grad():
        clip.model.visual.proj[0, 0] += 1
    assert clip.image_weights_hash() != image
    assert clip.text_weights_hash() == text
    other = clip.image_weights_hash()
    with torch.no_grad():
        clip.model.text_projection[0, 0] += 1
    assert clip.image_weights_hash() == other
    assert clip.text_weights_hash() != text


def test_equal_weights_in_another_folder_have_equal_hashes(
    clip: LoadedClip, tmp_path: Path
) -> None:
    folder = write_clip(tmp_path / "copy", seed=0)
    copied = load_clip(locate_image_model(f"local-dir:{folder}"), "cpu")
    assert copied.image_weights_hash() == clip.image_weights_hash()
    assert copied.text_weights_hash() == clip.text_weights_hash()
    assert copied.image_settings_hash() == clip.image_settings_hash()


def test_activation_of_the_weights_is_set_and_hashed(folder: Path, clip: LoadedClip) -> None:
    located = dataclasses.replace(clip.located, quick_gelu=True)
    quick = load_clip(located, "cpu")
    assert quick.image_weights_hash() == clip.image_weights_hash()
    assert quick.image_settings_hash() != clip.image_settings_hash()
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.inference_mode():
        difference = quick.model.encode_image(pixels) - clip.model.encode_image(pixels)
    assert difference.abs().max() > 1e-4


def test_pixel_settings_of_the_weights_are_used(clip: LoadedClip) -> None:
    located = dataclasses.replace(
        clip.located,
        preprocess={"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", "resize_mode": "squash"},
    )
    loaded = load_clip(located, "cpu")
    assert loaded.pixels.mean == (0.1, 0.2, 0.3)
    assert (loaded.pixels.interpolation, loaded.pixels.resize_mode) == ("bilinear", "squash")
    assert loaded.image_settings_hash() != clip.image_settings_hash()


def test_model_definition_is_part_of_the_settings_hashes(clip: LoadedClip, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "copy", seed=0)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["head_width"] = 8
    path.write_text(json.dumps(config))
    other = load_clip(locate_image_model(f"local-dir:{folder}"), "cpu")
    assert other.image_weights_hash() == clip.image_weights_hash()
    assert other.image_settings_hash() != clip.image_settings_hash()
    assert other.text_settings_hash() != clip.text_settings_hash()

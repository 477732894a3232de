"""The shipped tiny CLIP retrieves unseen items; its training runs and learns."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample
from tools.tiny_clip import train as tiny_clip
from tools.tiny_clip.captioned_images import CaptionedImages


@pytest.fixture(scope="module")
def unseen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample dataset with a seed that the shipped model was not trained on."""
    folder = tmp_path_factory.mktemp("unseen")
    generate_sample(SampleConfig.scaled(0.05, seed=31, n_items=600), folder)
    return folder


@pytest.fixture(scope="module")
def unseen(unseen_folder: Path) -> CaptionedImages:
    return tiny_clip.read(unseen_folder)


def test_the_shipped_model_is_small_and_loads_through_open_clip() -> None:
    folder = tiny_clip.FOLDER
    assert (folder / "open_clip_model.safetensors").stat().st_size < 6_000_000
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    image = Image.fromarray(np.full((50, 70, 3), 128, dtype=np.uint8))
    with torch.no_grad():
        pixels = preprocess(image)
        visual = model.eval().encode_image(pixels.unsqueeze(0))
        textual = model.encode_text(tokenizer(["a title"]))
    assert pixels.shape == (3, 64, 64)
    assert visual.shape == textual.shape == (1, 128)
    assert visual.dtype == torch.float32
    assert bool(visual.isfinite().all())


def test_the_shipped_configuration_matches_the_code() -> None:
    path = tiny_clip.FOLDER / "open_clip_config.json"
    assert json.loads(path.read_text()) == {
        "model_cfg": tiny_clip.MODEL_CONFIG,
        "preprocess_cfg": tiny_clip.PREPROCESS_CONFIG,
    }


@pytest.fixture(scope="module")
def results(unseen: CaptionedImages) -> dict[str, float | int]:
    """Results of the shipped model on unseen items."""
    return tiny_clip.evaluate(tiny_clip.load(), unseen)


def test_retrieval_on_unseen_items_is_far_above_chance(results: dict[str, float | int]) -> None:
    assert results["n_items"] + results["n_skipped"] == 600
    assert results["n_skipped"] > 0
    assert results["top_title_style"] > 0.9
    assert results["top_title_style_by_chance"] == pytest.approx(1 / 6, abs=1e-3)
    assert results["top_title_both"] > 3 * results["top_title_both_by_chance"]
    assert results["caption_style_accuracy"] > 0.95
    assert results["recall_at_10"] > 2.5 * results["recall_at_10_by_chance"]


def test_image_vectors_show_the_style_and_not_the_category(results: dict[str, float | int]) -> None:
    assert results["probe_style"] > 0.95
    assert results["probe_category"] < 0.4


def test_image_vectors_vary_mostly_with_the_style(unseen: CaptionedImages) -> None:
    with torch.no_grad():
        vectors = tiny_clip.load().encode_image(unseen.image)
    means = torch.stack([vectors[unseen.style == style].mean(dim=0) for style in range(6)])
    within = (vectors - means[unseen.style]).square().sum()
    assert within < 0.3 * (vectors - vectors.mean(dim=0)).square().sum()


def test_a_model_with_random_weights_scores_near_chance(unseen: CaptionedImages) -> None:
    torch.manual_seed(0)
    random = open_clip.model.CLIP(**tiny_clip.MODEL_CONFIG).eval()
    results = tiny_clip.evaluate(random, unseen)
    assert results["top_title_style"] < 0.4
    assert results["recall_at_10"] < 2.5 * results["recall_at_10_by_chance"]


@pytest.mark.slow
def test_training_lowers_the_loss_and_saved_weights_load(
    tmp_path: Path, unseen: CaptionedImages, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = tiny_clip.train(unseen, seed=3, epochs=3, batch_size=64, learning_rate=2e-3)
    losses = [float(line.rsplit(" ", 1)[1]) for line in caplog.messages if "mean loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.05
    tiny_clip.save(model, tmp_path / "model")
    with torch.no_grad():
        before = model.encode_image(unseen.image[:8])
        after = tiny_clip.load(tmp_path / "model").encode_image(unseen.image[:8])
    assert torch.allclose(before, after, atol=0.02 * float(before.abs().max()))


@pytest.mark.slow
def test_training_is_reproducible(unseen: CaptionedImages) -> None:
    part = CaptionedImages(
        **{
            name: values[:128] if isinstance(values, torch.Tensor) else values
            for name, values in vars(unseen).items()
        }
    )
    weights, again = (
        tiny_clip.train(part, seed=3, epochs=2, batch_size=64, learning_rate=2e-3).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_the_command_prints_one_line_of_json(
    unseen_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_clip.main(["--evaluate", str(unseen_folder)])
    printed = capsys.readouterr().out.strip().split("\n")
    assert len(printed) == 1
    assert json.loads(printed[0])["top_title_style"] > 0.9


def test_a_dataset_without_covers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="item_images"):
        tiny_clip.read(tmp_path)


def test_unreadable_covers_are_counted(
    unseen: CaptionedImages, unseen_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    (copy / "item_images").mkdir(parents=True)
    for name in ("item_feature.parquet", "sample_items.parquet"):
        (copy / name).write_bytes((unseen_folder / name).read_bytes())
    covers = sorted((unseen_folder / "item_images").glob("*.jpg"))
    readable = next(path for path in covers if _is_readable(path.read_bytes()))
    for path in covers:
        content = b"" if path == readable else path.read_bytes()
        (copy / "item_images" / path.name).write_bytes(content)
    assert tiny_clip.read(copy).n_skipped == unseen.n_skipped + 1


def _is_readable(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except OSError:
        return False
    return True

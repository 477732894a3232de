"""Image towers compute the same vectors as open_clip."""

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.modified_resnet import Bottleneck
from PIL import Image
from torch import nn

from mmctr_pipeline.data.images import ImageIndex, index_images
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.encoders.image.encode import encode_images
from mmctr_pipeline.encoders.image.towers import fast_tower, plain_tower
from mmctr_pipeline.encoders.locate import locate_image_model
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.sample.covers import draw_cover
from mmctr_pipeline_tests.encoders.small_models import random_clip, save_clip

# A smaller RN50: half its width, two thirds of its blocks, and a minimal text tower, which is not
# used. It amplifies rounding as RN50 does, but runs in seconds, also on CPUs without bfloat16
# products.
RESNET = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": [2, 3, 4, 2], "width": 32, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}
N_FOR_STATISTICS = 64
PHOTOS = range(1, 25)
FEW = 16


@dataclasses.dataclass(frozen=True)
class Reference:
    """A folder of images, a model, and the images' vectors by open_clip in float32.

    `vectors` is `(len(item_id), D) float32`. `swapped` has the vectors of the first `FEW` images
    with red and blue exchanged, an error that the bounds must detect.
    """

    images: ImageIndex
    item_id: Sequence[int]
    model_name: str
    vectors: np.ndarray
    swapped: np.ndarray

    def encode(self, precision: str, store: Path, n_items: int) -> np.ndarray:
        """Return the pipeline's vectors of the first `n_items` images."""
        item_id = np.array(self.item_id[:n_items])
        config = ImageEncoderConfig(model=self.model_name, precision=precision)
        table = encode_images(item_id, self.images, config, "cpu", VectorStore(store)).table
        assert table.present.all()
        return table.vectors

    def centred_cosine(self, found: np.ndarray) -> np.ndarray:
        """Return the cosine of each row to its reference, after subtracting the mean vector.

        Without the subtraction, any two vectors of a tower have a high cosine.
        """
        mean = self.vectors.mean(axis=0)
        found, expected = found - mean, self.vectors[: len(found)] - mean
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        return (found * expected).sum(axis=1) / lengths


def compute_reference(images: ImageIndex, item_id: Sequence[int], model_name: str) -> Reference:
    model, preprocess = open_clip.create_model_from_pretrained(model_name)
    model.eval()
    pictures = [Image.open(images.path(item)).convert("RGB") for item in item_id]
    swapped = [Image.merge("RGB", picture.split()[::-1]) for picture in pictures[:FEW]]
    with torch.inference_mode():
        pixels = torch.stack([preprocess(picture) for picture in pictures + swapped])
        vectors = torch.cat([model.encode_image(batch) for batch in pixels.split(16)]).numpy()
    return Reference(
        images, item_id, model_name, vectors[: len(pictures)], vectors[len(pictures) :]
    )


def photo_like(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture with strong coarse and weak fine shapes, like a photograph."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*size[::-1], 3), 128, np.float32)
    for cells in (3, 6, 12, 24, 48, 96, 200):
        grids = rng.normal(size=(3, cells, cells)).astype(np.float32)
        layer = [Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC) for grid in grids]
        pixels += 60 * (3 / cells) ** 0.7 * np.stack(layer, axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@torch.no_grad()
def make_sensitive(visual: nn.Module, pixels: torch.Tensor) -> None:
    """Make the vectors of a ResNet with random weights depend on the picture.

    As initialised, each block adds nothing, and each normalisation assumes a mean of 0 and
    a variance of 1. Afterwards the blocks contribute, and the statistics are those of `pixels`.
    """
    for module in visual.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.bn3.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            # None means the mean over all batches; a number would favour the last batches.
            module.momentum = None
    visual.train()
    for batch in pixels.split(32):
        visual(batch)
    visual.eval()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    photos = tmp_path_factory.mktemp("photos")
    for item in PHOTOS:
        photo_like(item, (240, 180)).save(photos / f"{item}.jpg", quality=90)
    torch.manual_seed(0)
    model = random_clip(RESNET)
    preprocess = open_clip.image_transform(96, is_train=False)
    others = range(1000, 1000 + N_FOR_STATISTICS)
    pixels = torch.stack([preprocess(photo_like(seed, (128, 96))) for seed in others])
    make_sensitive(model.visual, pixels)
    folder = save_clip(tmp_path_factory.mktemp("models") / "resnet", model, RESNET, {"size": 96})
    return compute_reference(index_images(photos), PHOTOS, f"local-dir:{folder}")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    covers = tmp_path_factory.mktemp("covers")
    for item in range(1, 65):
        cover = draw_cover(item % 6, item // 6 % 6, np.random.default_rng(item))
        (covers / f"{item}.jpg").write_bytes(cover)
    architecture = locate_image_model("tiny-clip").architecture
    return compute_reference(index_images(covers), range(1, 65), architecture)


def test_folded_resnet_in_float32_equals_open_clip(resnet: Reference, tmp_path: Path) -> None:
    found = resnet.encode("float32", tmp_path, FEW)
    assert resnet.centred_cosine(found).min() > 0.99999
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.linalg.norm(resnet.vectors[:FEW], axis=1), rtol=1e-3
    )


@pytest.mark.slow
def test_resnet_in_bfloat16_is_close_because_its_stem_is_in_float32(
    resnet: Reference, tmp_path: Path
) -> None:
    found = resnet.encode("bfloat16", tmp_path, len(PHOTOS))
    ours = resnet.centred_cosine(found).mean()
    assert 0.99 <= ours < 0.9999
    # Exchanged colours would fail this bound.
    assert resnet.centred_cosine(resnet.swapped).mean() < 0.9

    model, preprocess = open_clip.create_model_from_pretrained(resnet.model_name)
    visual = model.visual.eval().to(torch.bfloat16)
    pictures = [Image.open(resnet.images.path(item)) for item in resnet.item_id]
    with torch.inference_mode():
        pixels = torch.stack([preprocess(picture) for picture in pictures]).bfloat16()
        all_bfloat16 = torch.cat([visual(batch) for batch in pixels.split(8)]).float().numpy()
    # With the stem in bfloat16 too, the error more than doubles, since later layers amplify the
    # rounding of the stem.
    assert 1 - resnet.centred_cosine(all_bfloat16).mean() > 2 * (1 - ours)


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("float32", 0.99999, 1.00001), ("bfloat16", 0.99, 0.99999)]
)
def test_tiny_clip_equals_open_clip(
    tiny_clip: Reference, tmp_path: Path, precision: str, least: float, most: float
) -> None:
    found = tiny_clip.encode(precision, tmp_path, 64)
    assert least <= tiny_clip.centred_cosine(found).mean() < most
    # Exchanged colours would fail the bound of either precision.
    assert tiny_clip.centred_cosine(tiny_clip.swapped).mean() < 0.98


@pytest.fixture(scope="module")
def small_resnet() -> Any:
    """A ResNet image tower with every kind of block, from 64 x 64 pixels to 24 dimensions."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}
    visual = random_clip({**RESNET, "embed_dim": 24, "vision_cfg": vision}).visual
    make_sensitive(visual, torch.randn(64, 3, 64, 64))
    with torch.no_grad():
        for module in visual.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
            getattr(visual.attnpool, name).bias.normal_()
    return visual


def relative_error(found_BD: torch.Tensor, exact_BD: torch.Tensor) -> float:
    """Return the largest distance of a row from the exact row, relative to the exact length."""
    return float(((found_BD - exact_BD).norm(dim=1) / exact_BD.norm(dim=1)).max())


@pytest.mark.parametrize("n_images", [1, 5])
def test_towers_equal_open_clip_and_do_not_change_its_model(
    small_resnet: Any, n_images: int
) -> None:
    pixels = torch.randn(n_images, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(small_resnet.state_dict())
    with torch.inference_mode():
        expected = small_resnet(pixels)
        single = fast_tower(small_resnet, torch.float32)(pixels)
        half = fast_tower(small_resnet, torch.bfloat16)(pixels)
        plain = plain_tower(small_resnet)(pixels)
        exact = copy.deepcopy(small_resnet).double()(pixels.double())
    assert single.dtype == half.dtype == torch.float32
    torch.testing.assert_close(plain, expected, atol=0, rtol=0)
    # The order of summation in float32 depends on the CPU, and the layers amplify its effect.
    # Both forms are off by at most 2e-5 of a vector's length. A single forgotten bias would change
    # the vector by 1e-3 or more.
    assert relative_error(expected, exact) < 1e-4
    assert relative_error(single, exact) < 1e-4
    # bfloat16 is off by more, so it would fail the bounds above.
    assert relative_error(half, exact) > 1e-2
    assert 0.99 < torch.cosine_similarity(half, expected).min() < 0.999999
    after = small_resnet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_towers_run_unchanged() -> None:
    class Captioning(nn.Module):
        """Returns the vectors together with a second output."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 4 * 4, 5)

        def forward(self, pixels_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            vectors_BD = self.layer(pixels_BCHW.flatten(1))
            return vectors_BD, pixels_BCHW

    tower, pixels = Captioning(), torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        expected = tower.layer(pixels.flatten(1))
        torch.testing.assert_close(fast_tower(tower, torch.float32)(pixels), expected)
        half = fast_tower(tower, torch.bfloat16)(pixels)
    assert half.dtype == torch.float32
    assert 0 < (half - expected).abs().max() < 0.1
    assert tower.layer.weight.dtype == torch.float32

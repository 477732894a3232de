from pathlib import Path

import pytest
import torch
from PIL import Image

from mmctr_pipeline.encoders.decode import UnreadableImageError, read_image
from mmctr_pipeline_tests.encoders.broken_images import BROKEN, GOOD, MISSING, write_broken_images

pytestmark = pytest.mark.filterwarnings("ignore:Image size")


def corner(image: Image.Image) -> torch.Tensor:
    """Decode the whole image and return one pixel."""
    return torch.tensor(image.convert("RGB").getpixel((0, 0)), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_broken_images(path)
    return path


@pytest.mark.parametrize("item", GOOD)
def test_good_images_of_any_mode_are_read(folder: Path, item: int) -> None:
    with Image.open(folder / f"{item}.jpg") as image:
        assert image.mode == GOOD[item]
        expected = corner(image)
    assert torch.equal(read_image(folder / f"{item}.jpg", corner), expected)


@pytest.mark.parametrize("item", BROKEN)
def test_each_broken_file_has_its_reason(folder: Path, item: int) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        read_image(folder / f"{item}.jpg", corner)
    assert caught.value.reason == BROKEN[item]
    assert f"{item}.jpg" in str(caught.value)


def test_a_file_that_is_not_there_has_a_reason(folder: Path) -> None:
    with pytest.raises(UnreadableImageError, match="a link to nothing"):
        read_image(folder / f"{MISSING[0]}.jpg", corner)


def test_too_many_pixels_are_told_from_the_header_alone(folder: Path) -> None:
    def never(image: Image.Image) -> torch.Tensor:
        raise AssertionError("decoded")

    with pytest.raises(UnreadableImageError, match="too many pixels"):
        read_image(folder / "17.jpg", never)
    with pytest.raises(AssertionError, match="decoded"):
        read_image(folder / "1.jpg", never)

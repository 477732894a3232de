"""Covers at a URL are found like those in a folder, and get the same vectors."""

from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.image_url import index_images_at
from mmctr_pipeline.data.images import index_images
from mmctr_pipeline.data.validation import DataNotFoundError
from mmctr_pipeline.encoders.config import ImageEncoderConfig
from mmctr_pipeline.settings import SettingsError
from mmctr_pipeline_tests.data.served_folder import served
from mmctr_pipeline_tests.encoders.image.broken_images import encoded, picture

ITEM_ID = np.arange(1, 9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Covers of some items, with all that a folder may hold."""
    covers = {f"{item}.jpg": encoded(picture(item), "JPEG") for item in (1, 2)}
    covers |= {
        "3.JPG": encoded(picture(3), "JPEG"),
        "more/image4.png": encoded(picture(4), "PNG"),
        "5.webp": encoded(picture(5), "WEBP"),
        "5.jpg": encoded(picture(5), "JPEG"),
        "6.jpg": b"",
        "7.jpg": b"not an image",
        ".hidden.jpg": b"x",
        "__MACOSX/1.jpg": b"x",
        "notes.txt": b"x",
    }
    for name, content in covers.items():
        path = tmp_path / "covers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "covers"


@pytest.mark.parametrize("scheme", ["file", "memory", "http"])
def test_the_same_files_are_found_and_encoded_as_in_the_folder(
    folder: Path, scheme: str, tmp_path: Path
) -> None:
    from mmctr_pipeline.encoders.image.encode import encode_images
    from mmctr_pipeline.encoders.store.vector_store import VectorStore

    config = ImageEncoderConfig(model="tiny-clip", precision="float32")
    expected = encode_images(
        ITEM_ID, index_images(folder), config, "cpu", VectorStore(tmp_path / "a")
    )
    with served(folder, scheme) as url:
        index = index_images_at(url)
        assert index.files == index_images(folder).files
        assert (index.n_unused, index.n_ignored) == (1, 1)
        at_url = ImageEncoderConfig(model="tiny-clip", precision="float32", images_url=url)
        found = encode_images(ITEM_ID, None, at_url, "cpu", VectorStore(tmp_path / "b"))
    assert found.table.identity == expected.table.identity
    np.testing.assert_array_equal(found.table.vectors, expected.table.vectors)
    assert found.table.present.tolist() == [True] * 5 + [False] * 3
    reasons = [row["reason"] for row in found.problems.to_pylist()]
    assert reasons == ["empty file", "not an image", "no file"]
    if scheme != "file":
        assert found.problems["path"].to_pylist() == [f"{url}/{item}.jpg" for item in (6, 7, 8)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///no/such/folder", "there is no such folder"),
        ("memory://no/such/folder", "there is no such folder"),
        ("nosuch://bucket/covers", "Protocol not known: nosuch"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_named(url: str, reason: str) -> None:
    with pytest.raises(DataNotFoundError, match=f"the covers at {url} cannot be listed: {reason}"):
        index_images_at(url)


def test_a_folder_without_any_cover_is_named(folder: Path) -> None:
    with served(folder, "memory") as url:
        index = index_images_at(url)
        with pytest.raises(DataNotFoundError, match=f"has an image in {url}: looked for names"):
            index.match(np.array([77, 78]))


@pytest.mark.parametrize(
    "url", ["covers", "/mnt/covers", "s3://key:secret@bucket/covers", "http://host/a?token=secret"]
)
def test_a_setting_that_is_no_url_or_may_hold_a_password_is_refused_unseen(url: str) -> None:
    with pytest.raises(SettingsError, match="images_url is not a URL") as refused:
        ImageEncoderConfig(images_url=url)
    assert "secret" not in str(refused.value)

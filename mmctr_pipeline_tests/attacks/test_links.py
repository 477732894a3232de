"""Symbolic links and ids that lead out of the data folder are never followed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmctr_pipeline.data.build import build_dataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataError, DataNotFoundError
from mmctr_pipeline_tests.data import small_data


def _inside_and_outside(tmp_path: Path) -> tuple[Path, Path]:
    """Return a data folder, and a folder outside it with the same files."""
    return small_data.write_data(tmp_path / "data"), small_data.write_data(tmp_path / "outside")


@pytest.mark.parametrize("link", ["absolute", "relative", "chain", "folder", "part"])
def test_a_table_that_is_a_link_out_of_the_data_folder_is_refused(
    tmp_path: Path, link: str
) -> None:
    root, outside = _inside_and_outside(tmp_path)
    path = root / "train.parquet"
    path.unlink()
    target = outside / "train.parquet"
    match link:
        case "absolute":
            path.symlink_to(target)
        case "relative":
            path.symlink_to("../outside/train.parquet")
        case "chain":
            (root / "link").symlink_to(target)
            path.symlink_to("link")
        case "folder":
            (root / "splits").symlink_to(outside)
            for name in ("valid", "test", "item_feature"):
                (outside / f"{name}.parquet").unlink()
        case "part":
            path.mkdir()
            (path / "part-0.parquet").symlink_to(target)
    with pytest.raises(DataError) as error:
        find_data(root)
    assert f"leads to {target}, outside the data folder {root}" in str(error.value)
    assert "MMCTR_DATA_DIR" in error.value.fix


def test_links_within_the_data_folder_are_followed(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path / "data")
    (root / "v2").mkdir()
    (root / "train.parquet").rename(root / "v2" / "train-2026.parquet")
    (root / "train.parquet").symlink_to("v2/train-2026.parquet")
    assert len(build_dataset(find_data(root)).train) == 4


def test_the_data_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    small_data.write_data(tmp_path / "disk" / "data")
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "data")
    layout = find_data(tmp_path / "data")
    assert layout.train == tmp_path / "data" / "train.parquet"
    # A folder above the data folder may be a link, too.
    (tmp_path / "mount").symlink_to(tmp_path / "disk")
    assert find_data(tmp_path / "mount" / "data").train.is_file()


def _write_covers(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_of_images_that_leads_outside_is_refused(tmp_path: Path) -> None:
    root, outside = _inside_and_outside(tmp_path)
    _write_covers(outside / "covers", "1.jpg")
    (root / "item_images").symlink_to(outside / "covers")
    with pytest.raises(DataError, match="outside the data folder"):
        find_data(root)
    (root / "item_images").unlink()
    _write_covers(root / "item_images", "2.jpg")
    (root / "item_images" / "00").symlink_to(outside / "covers")
    with pytest.raises(DataError, match=r"item_images/00.*outside the data folder"):
        find_data(root)


def test_covers_that_lead_outside_are_counted_and_never_opened(tmp_path: Path) -> None:
    root, outside = _inside_and_outside(tmp_path)
    folder = _write_covers(root / "item_images", "1.jpg", "3.png")
    secret = _write_covers(outside / "covers", "secret") / "secret"
    for name in ("2.jpg", "3.jpg", "image4.png"):
        (folder / name).symlink_to(secret)
    (folder / "5.jpg").symlink_to("/nowhere/5.jpg")
    (folder / "6.jpg").symlink_to("1.jpg")
    layout = find_data(root)
    images = layout.images
    assert images is not None
    assert [images.leads_outside(item) for item in range(1, 7)] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert [images.path(item) for item in (2, 4, 5)] == [None] * 3
    # 3.jpg leads outside, so the other file of item 3 is used.
    assert images.path(3) == folder / "3.png"
    assert images.names() == ["1.jpg", "3.png", "6.jpg"]
    assert "4 links out of the data folder refused" in layout.description
    with pytest.raises(
        DataNotFoundError, match=r"images of 2 items .* lead out of the data folder"
    ):
        images.match(np.array([2, 4, 99]))


@pytest.mark.parametrize("item", ["../secret", "/etc/passwd", "a/../../secret", "secret\0"])
def test_an_id_cannot_name_a_file_elsewhere(tmp_path: Path, item: str) -> None:
    root = small_data.write_data(tmp_path / "data")
    _write_covers(root / "item_images", "1.jpg")
    _write_covers(tmp_path / "data", "secret.jpg")
    images: Any = find_data(root).images
    assert images.path(item) is None
    assert not images.match(np.array([item, "1"]))[0]

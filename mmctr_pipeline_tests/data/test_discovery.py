from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.discovery import DataNotFoundError, find_data
from mmctr_pipeline_tests.data import small_data

_SPLITS = ("train.parquet", "valid.parquet", "test.parquet")


def _nest(root: Path, name: str = "MicroLens_1M_x1") -> Path:
    """Move the splits one folder down, as in most copies."""
    (root / name).mkdir()
    for split in _SPLITS:
        (root / split).rename(root / name / split)
    return root


def _touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def test_flat_copy(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path, item_info={"item_id": [0]})
    layout = find_data(root)
    assert layout.train == root / "train.parquet"
    assert layout.valid == root / "valid.parquet"
    assert layout.test == root / "test.parquet"
    assert layout.item_feature == root / "item_feature.parquet"
    assert layout.item_info == root / "item_info.parquet"
    assert layout.images is None


@pytest.mark.parametrize("name", ["MicroLens_1M_x1", "another"])
def test_nested_copy(tmp_path: Path, name: str) -> None:
    root = _nest(small_data.write_data(tmp_path), name)
    layout = find_data(root)
    assert layout.test == root / name / "test.parquet"
    assert layout.item_feature == root / "item_feature.parquet"
    assert layout.item_info is None
    assert f"{name}/train.parquet" in layout.description
    assert "item_info.parquet     none" in layout.description


def test_missing_file_is_reported_with_the_folders_searched(tmp_path: Path) -> None:
    root = _nest(small_data.write_data(tmp_path))
    (root / "MicroLens_1M_x1" / "valid.parquet").unlink()
    with pytest.raises(DataNotFoundError) as error:
        find_data(root)
    assert "valid.parquet not found" in str(error.value)
    assert f"{root}, {root / 'MicroLens_1M_x1'}" in str(error.value)
    assert "train.parquet" not in str(error.value)


def test_the_inner_folder_is_recognised_as_too_deep(tmp_path: Path) -> None:
    root = _nest(small_data.write_data(tmp_path))
    with pytest.raises(DataNotFoundError, match="name the folder above"):
        find_data(root / "MicroLens_1M_x1")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="is not a folder"):
        find_data(tmp_path / "nowhere")


def test_two_copies_are_ambiguous_unless_they_are_the_same_file(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "copy").mkdir()
    (root / "copy" / "train.parquet").symlink_to(root / "train.parquet")
    assert find_data(root).train == root / "train.parquet"
    small_data.write(root / "older" / "train.parquet", small_data.train())
    with pytest.raises(DataNotFoundError) as error:
        find_data(root)
    assert str(root / "train.parquet") in str(error.value)
    assert str(root / "older" / "train.parquet") in str(error.value)


@pytest.mark.parametrize(
    ("folder", "name", "pattern"),
    [
        ("item_images", "3.jpg", "{item_id}.jpg"),
        ("item_images/item_images", "3.jpg", "{item_id}.jpg"),
        ("item_images", "image3.jpg", "image{item_id}.jpg"),
        ("images", "3.png", "{item_id}.png"),
        ("MicroLens_1M_x1/item_images", "image3.JPEG", "image{item_id}.JPEG"),
    ],
)
def test_images_are_found_by_folder_and_name(
    tmp_path: Path, folder: str, name: str, pattern: str
) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / folder, name)
    images = find_data(root).images
    assert images is not None
    assert (images.pattern, images.n_files) == (pattern, 1)
    assert images.path(3) == root / folder / name
    assert images.match(np.array([2, 3, 30])).tolist() == [False, True, False]


def test_the_most_frequent_name_pattern_wins_and_others_are_counted(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "1.jpg", "2.jpg", "image3.jpg", "cover.jpg", ".DS_Store")
    layout = find_data(root)
    assert layout.images is not None
    assert layout.images.names() == ["1.jpg", "2.jpg"]
    assert "(2 files; 2 files of other names ignored)" in layout.description


def test_two_folders_of_images_are_ambiguous(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "1.jpg")
    _touch(root / "images", "logo.png")
    assert find_data(root).images is not None
    _touch(root / "images", "1.jpg")
    with pytest.raises(DataNotFoundError, match=r"item_images and .*images"):
        find_data(root)


def test_leftovers_of_archivers_are_not_searched(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "__MACOSX" / "item_images", "1.jpg")
    _touch(root / ".cache" / "item_images", "1.jpg")
    assert find_data(root).images is None


def test_images_of_unknown_names_fail_only_when_matched(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    images = find_data(root).images
    assert images is not None
    assert images.n_files == 0
    with pytest.raises(DataNotFoundError) as error:
        images.match(np.array([5, 6]))
    message = str(error.value)
    for part in ("5.jpg", "image5.jpg", "a.jpg, b.jpg, c.jpg", "4 files", "Fix:"):
        assert part in message
    assert "d.jpg" not in message


def test_images_of_other_items_count_as_no_match(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "100.jpg", "99999999999999999999999.jpg")
    images = find_data(root).images
    assert images is not None
    with pytest.raises(DataNotFoundError, match="none of 2 items"):
        images.match(np.array([5, 6]))


def test_an_empty_folder_of_images(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "item_images").mkdir()
    images = find_data(root).images
    assert images is not None
    with pytest.raises(DataNotFoundError, match="has 0 files"):
        images.match(np.array([5]))

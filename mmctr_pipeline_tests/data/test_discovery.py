"""Data files and covers are found in every known layout; what is missing is named."""

from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.validation import DataNotFoundError
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


def test_a_flat_copy_is_found(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path, item_info={"item_id": [0]})
    layout = find_data(root)
    assert layout.train == root / "train.parquet"
    assert layout.valid == root / "valid.parquet"
    assert layout.test == root / "test.parquet"
    assert layout.item_feature == root / "item_feature.parquet"
    assert layout.item_info == root / "item_info.parquet"
    assert layout.images is None


@pytest.mark.parametrize("name", ["MicroLens_1M_x1", "another"])
def test_a_nested_copy_is_found(tmp_path: Path, name: str) -> None:
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


def test_naming_the_inner_folder_is_refused_with_advice(tmp_path: Path) -> None:
    root = _nest(small_data.write_data(tmp_path))
    with pytest.raises(DataNotFoundError, match="name the folder above"):
        find_data(root / "MicroLens_1M_x1")


def test_a_data_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
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
    layout = find_data(root)
    images = layout.images
    assert images is not None
    assert f"{folder}/{pattern} (1 files)" in layout.description
    assert images.path(3) == root / folder / name
    assert images.match(np.array([2, 3, 30])).tolist() == [False, True, False]


def test_names_of_all_patterns_are_listed_and_counted(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "1.jpg", "2.jpg", "image3.jpg", "notes.txt", ".DS_Store")
    layout = find_data(root)
    assert layout.images is not None
    assert layout.images.names() == ["1.jpg", "2.jpg", "image3.jpg"]
    listed = "{item_id}.jpg, image{item_id}.jpg (3 files; 1 other files ignored)"
    assert listed in layout.description


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


def test_unknown_image_names_are_refused_only_when_matched_with_items(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    images = find_data(root).images
    assert images is not None
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
    with pytest.raises(DataNotFoundError, match="none of the 2 items"):
        images.match(np.array([5, 6]))


def test_an_empty_folder_of_images_is_refused_when_matched(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    (root / "item_images").mkdir()
    images = find_data(root).images
    assert images is not None
    with pytest.raises(DataNotFoundError, match="has 0 files"):
        images.match(np.array([5]))


FILES_OF_ITEMS = {
    1: ("1.JPG", "1.JPG"),
    2: ("2.jpg", "2.jpg"),
    3: ("image3.png", "image3.png"),
    4: ("4.jpeg", "4.jpeg"),
    5: ("00/5.webp", "00/5.webp"),
    6: ("6.png 6.jpg 01/6.jpg", "6.jpg"),
    7: ("image7.jpg 7.webp", "7.webp"),
    8: ("8.JPG 8.jpg", "8.jpg"),
    9: ("b/9.jpg a/9.jpg", "a/9.jpg"),
    10: ("10.gif 10.txt", None),
}
"""Files of each item, and the one that is used."""


def test_each_item_uses_the_first_of_its_files(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    folder = root / "item_images"
    for names, _ in FILES_OF_ITEMS.values():
        for name in names.split():
            _touch((folder / name).parent, Path(name).name)
    layout = find_data(root)
    images = layout.images
    assert images is not None
    for item, (_, expected) in FILES_OF_ITEMS.items():
        assert images.path(item) == (None if expected is None else folder / expected), item
    has_image = images.match(np.array(list(FILES_OF_ITEMS)))
    assert has_image.tolist() == [expected is not None for _, expected in FILES_OF_ITEMS.values()]
    assert (images.n_unused, images.n_ignored) == (5, 2)
    assert "5 more unused, as their items have another; 2 other files ignored" in layout.description


def test_images_of_string_ids_are_found_by_exact_name(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path)
    _touch(root / "item_images", "dQw4w9WgXcQ.jpg", "007.png", "image-x.jpg")
    images = find_data(root).images
    assert images is not None
    ids = np.array(["007", "7", "dQw4w9WgXcQ", "dqw4w9wgxcq", "-x", "../item_images/007"])
    assert images.match(ids).tolist() == [True, False, True, False, True, False]
    assert images.path("../item_images/007") is None
    assert images.path("/etc/passwd") is None

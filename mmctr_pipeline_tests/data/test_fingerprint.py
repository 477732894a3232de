"""Fingerprints depend on contents, not on paths.

The fingerprint of images also depends on the names of their files.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.fingerprint import (
    fingerprint_array,
    fingerprint_files,
    fingerprint_images,
)
from mmctr_pipeline.data.images import index_images
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.read_folders import read_folder


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_fingerprint_of_files_depends_on_content_and_order(tmp_path: Path) -> None:
    a, b = _write(tmp_path / "a", "1"), _write(tmp_path / "b", "2")
    c, d = _write(tmp_path / "x" / "c", "1"), _write(tmp_path / "x" / "d", "2")
    os.utime(c, (1, 1))
    assert fingerprint_files([a, b]) == fingerprint_files([c, d])
    assert fingerprint_files([a, b]) != fingerprint_files([b, a])
    assert fingerprint_files([a]) != fingerprint_files([b])
    assert len(fingerprint_files([a])) == 64


def test_moving_content_between_files_changes_the_fingerprint(tmp_path: Path) -> None:
    one = [_write(tmp_path / "a", "12"), _write(tmp_path / "b", "3")]
    other = [_write(tmp_path / "c", "1"), _write(tmp_path / "d", "23")]
    assert fingerprint_files(one) != fingerprint_files(other)


def test_a_change_in_any_file_of_the_dataset_changes_the_fingerprint(tmp_path: Path) -> None:
    root = small_data.write_data(tmp_path / "data")
    before = read_folder(root).fingerprint
    nested = tmp_path / "other" / "MicroLens_1M_x1"
    small_data.write_data(nested)
    (nested / "item_feature.parquet").rename(nested.parent / "item_feature.parquet")
    assert read_folder(nested.parent).fingerprint == before
    for name in ("train", "valid", "test", "item_feature"):
        columns = getattr(small_data, name)()
        columns["likes_level"] = columns["likes_level"][::-1]
        changed = small_data.write_data(tmp_path / name, **{name: columns})
        assert read_folder(changed).fingerprint != before


def test_the_fingerprint_of_images_depends_on_names_and_contents(tmp_path: Path) -> None:
    def fingerprint(folder: str, **files: str) -> str:
        for name, text in files.items():
            _write(tmp_path / folder / f"{name.strip('_')}.jpg", text)
        return fingerprint_images(index_images(tmp_path / folder))

    before = fingerprint("a", _1="x", _2="y")
    assert fingerprint("b", _2="y", _1="x") == before
    assert fingerprint("c", _1="y", _2="x") != before
    assert fingerprint("d", _1="x", _3="y") != before
    (tmp_path / "a" / "notes.txt").write_text("z")
    assert fingerprint("a") == before
    assert fingerprint("a", _3="") != before


def test_a_broken_link_is_logged_and_changes_the_fingerprint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "1.jpg", "x")
    before = fingerprint_images(index_images(tmp_path))
    assert caplog.messages == []
    (tmp_path / "2.jpg").symlink_to(tmp_path / "nowhere")
    assert fingerprint_images(index_images(tmp_path)) != before
    assert caplog.messages == ["1 of 2 images cannot be opened"]
    # Opening a pipe would block for ever.
    os.mkfifo(tmp_path / "3.jpg")
    fingerprint_images(index_images(tmp_path))
    assert caplog.messages[-1] == "2 of 3 images cannot be opened"


def test_the_fingerprint_of_an_array_depends_on_dtype_shape_and_values() -> None:
    numbers = np.arange(6, dtype=np.int32)
    assert fingerprint_array(numbers) == fingerprint_array(numbers.copy())
    assert fingerprint_array(numbers[::2]) == fingerprint_array(numbers[::2].copy())
    different: list[np.ndarray] = [
        numbers.astype(np.int64),
        numbers.reshape(2, 3),
        numbers[::-1],
        numbers.astype(np.uint32),
    ]
    assert len({fingerprint_array(array) for array in [numbers, *different]}) == 5

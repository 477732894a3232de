"""Tensor files are bit-equal after a round trip, and damage is noticed."""

import contextlib
import os
import zipfile
from pathlib import Path

import pytest
import torch

from mmctr_pipeline.files import checksum
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.tensors import allocation_limit, load_tensors, save_tensors
from mmctr_pipeline_tests.files.flipped_bits import (
    all_bits,
    count_unnoticed,
    flips,
    plain,
    some_bits,
)

CONTENT = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2**40])},
    "flags": torch.tensor([True, False]),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16).view(torch.int16),
    "settings": {"name": "x", "rate": 0.1, "list": [1, None, True]},
}


@pytest.fixture(name="path")
def saved_path(tmp_path: Path) -> Path:
    path = tmp_path / "content.pt"
    save_tensors(path, CONTENT)
    return path


def test_contents_are_read_back(path: Path) -> None:
    assert plain(load_tensors(path)) == plain(CONTENT)


def test_equal_contents_give_equal_bytes_whatever_the_file_name(path: Path, tmp_path: Path) -> None:
    other = tmp_path / ".tmp-0123-other.pt"
    save_tensors(other, CONTENT)
    assert other.read_bytes() == path.read_bytes()


def test_torch_itself_and_zip_tools_read_the_file(path: Path) -> None:
    assert plain(torch.load(path, weights_only=True)) == plain(CONTENT)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"mmctr.crc32: ")


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    save_tensors(path, {"w": torch.tensor([0.5, -1.0]), "n": 3})
    assert count_unnoticed(path, lambda: load_tensors(path), all_bits(path)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_several_damaged_bytes_are_noticed(path: Path, seed: int) -> None:
    damaged = bytearray(path.read_bytes())
    for position, bit in some_bits(path, 20, seed):
        damaged[position] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(DamagedFileError, match=r"content\.pt"):
        load_tensors(path)


@pytest.mark.parametrize("n_bytes", [0, 1, 3, 100, 700, -40, -21, -8, -1])
def test_a_truncated_file_is_noticed(path: Path, n_bytes: int) -> None:
    os.truncate(path, n_bytes % path.stat().st_size)
    with pytest.raises(DamagedFileError, match=r"content\.pt"):
        load_tensors(path)


def test_a_missing_file_is_not_reported_as_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none.pt")


def test_a_file_of_torch_save_is_read_and_its_records_are_verified(tmp_path: Path) -> None:
    """Files of earlier versions have only the checksums of their records."""
    path = tmp_path / "old.pt"
    torch.save(CONTENT, path)
    assert plain(load_tensors(path)) == plain(CONTENT)
    content = bytearray(path.read_bytes())
    content[content.index(CONTENT["weights"]["a"].numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"the checksum of .*/data/0 does not match"):
        load_tensors(path)


def test_damage_of_an_old_file_raises_only_damaged_file_error(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"w": torch.tensor([0.5, -1.0]), "n": 3}, path)
    for _ in flips(path, some_bits(path, 200)):
        with contextlib.suppress(DamagedFileError):
            load_tensors(path)


def test_compressed_records_are_refused(path: Path, tmp_path: Path) -> None:
    """A few compressed bytes could unpack to any size."""
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(DamagedFileError, match="compressed records"):
        load_tensors(packed)


def test_a_file_without_an_entry_for_the_checksum_cannot_be_sealed(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("nothing here")
    with pytest.raises(ValueError, match=r"has no entry mmctr\.crc32"):
        checksum.seal(path)
    path.write_text(f"{checksum.KEY}: 12345678")
    with pytest.raises(ValueError, match="has no entry"):
        checksum.seal(path)


def test_modules_are_built_within_the_memory_of_their_weights() -> None:
    expected = torch.nn.Linear(1000, 50).state_dict()
    torch.manual_seed(0)
    outside = torch.nn.Linear(1000, 50)
    torch.manual_seed(0)
    with allocation_limit(expected.values()):
        inside = torch.nn.Linear(1000, 50)
    assert torch.equal(inside.weight, outside.weight)


@pytest.mark.parametrize("size", [10**8, 10**12, 2**62, 2**70])
@pytest.mark.parametrize("build", [torch.nn.Embedding, torch.nn.Linear])
def test_modules_larger_than_their_weights_are_refused(build: type, size: int) -> None:
    with (
        pytest.raises((DamagedFileError, TypeError, RuntimeError)),
        allocation_limit(torch.nn.Linear(3, 5).state_dict().values()),
    ):
        build(size, 64)

"""JSON records are read back unchanged, and flipped bits are noticed."""

import json
from pathlib import Path

import pytest

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline_tests.files.flipped_bits import all_bits, count_unnoticed

CONTENT = {"name": "ü <b>", "auc": 0.8123456789, "list": [1, None], "nested": {"x": 1e300}}


def test_a_record_is_read_back_and_is_json(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record.json"
    write_record(path, CONTENT)
    assert read_record(path) == CONTENT
    assert json.loads(path.read_text()) == {**CONTENT, "mmctr.crc32": path.read_text()[-12:-4]}


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, {"a": 0.25, "mmctr.crc": "mmctr.crc32: 00000000"})

    def read() -> dict:
        # If a bit of the checksum's key is flipped, its entry is read like any other.
        return {key: value for key, value in read_record(path).items() if key in ("a", "mmctr.crc")}

    # A flip in the checksum's entry may hide the entry; the bound allows 24 bytes for that.
    assert count_unnoticed(path, read, all_bits(path)) <= 8 * 24


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "\xff", "[" * 100_000])
def test_texts_that_are_not_json_objects_are_damaged_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedFileError, match=r"record\.json is damaged: it is not"):
        read_record(path)


def test_a_record_without_checksum_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(CONTENT))
    assert read_record(path) == CONTENT

"""Training inputs survive writing and reading, and different inputs have different keys."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline_tests.comparison.board_runs import small_inputs


def test_inputs_survive_writing_and_reading(tmp_path: Path) -> None:
    inputs = small_inputs()
    folder = inputs.write(tmp_path)
    assert folder == tmp_path / inputs.key
    read = TrainingInputs.read(folder)
    assert read.key == inputs.key
    np.testing.assert_array_equal(read.dataset.valid.label, inputs.dataset.valid.label)
    for name in ("fused", "text", "image"):
        table, other = getattr(inputs.vectors, name), getattr(read.vectors, name)
        np.testing.assert_array_equal(table.vectors, other.vectors)
        assert table.identity == other.identity
    files = [folder / "dataset" / "train.parquet", folder / "table_fused.parquet"]
    times = [file.stat().st_mtime_ns for file in files]
    assert inputs.write(tmp_path) == folder
    assert [file.stat().st_mtime_ns for file in files] == times, "the files were written again"

    # Inputs with other vectors share the dataset on disk.
    without_text = dataclasses.replace(inputs.vectors, text=None)
    other_folder = TrainingInputs(inputs.dataset, without_text).write(tmp_path)
    assert other_folder != folder
    assert (other_folder / "dataset").resolve() == (folder / "dataset").resolve()
    assert TrainingInputs.read(other_folder).vectors.text is None


def test_inputs_with_different_contents_have_different_keys() -> None:
    inputs = small_inputs()
    keys = {inputs.key}
    for name in ("fused", "text", "image"):
        table = getattr(inputs.vectors, name)
        other = dataclasses.replace(table, vectors=table.vectors + 1)
        vectors: ItemVectors = dataclasses.replace(inputs.vectors, **{name: other})
        keys.add(dataclasses.replace(inputs, vectors=vectors).key)
    other_rows = dataclasses.replace(inputs.dataset, fingerprint="other rows")
    keys.add(dataclasses.replace(inputs, dataset=other_rows).key)
    assert len(keys) == 5


@pytest.mark.parametrize("name", ["table_fused", "dataset/valid"])
def test_the_error_for_damaged_inputs_names_the_file_and_the_folder_to_remove(
    name: str, tmp_path: Path
) -> None:
    folder = small_inputs().write(tmp_path)
    path = folder / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = rf"{path.name} is damaged: .*; remove {tmp_path}; the next run writes it again"
    with pytest.raises(DamagedFileError, match=message):
        TrainingInputs.read(folder)

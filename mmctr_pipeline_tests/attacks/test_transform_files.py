"""Crafted transforms are refused with an error that names the file and the fix."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.tensors import load_tensors, save_tensors
from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.fusion.pca import PcaTransform, fit_pca
from mmctr_pipeline.fusion.transform_store import TransformStore


@pytest.fixture(name="fitted", scope="module")
def fitted_transform() -> PcaTransform:
    generator = np.random.default_rng(0)
    tables = [
        VectorTable(
            np.arange(1, 21), generator.normal(size=(20, dim)).astype("f4"), np.ones(20, bool), name
        )
        for name, dim in (("titles", 4), ("covers", 3))
    ]
    return fit_pca(*tables, FusionConfig(dim=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": torch.zeros(3, dtype=torch.float64)},
        {"components": torch.zeros(2, 99, dtype=torch.float64)},
        {"components": torch.zeros(14, dtype=torch.float64)},
        {"components": "none"},
        {"explained_variance_ratio": torch.zeros(5, dtype=torch.float64)},
        {"weight": torch.zeros(99, dtype=torch.float64)},
        {"weight": "none"},
        {"text_dim": 10**12},
        {"text_dim": "4"},
        {"input": 5},
        {"format": torch.ones(2)},
        {"identity": None},
        {"unknown_field": 1},
    ],
    ids=str,
)
def test_crafted_transforms_are_named_with_the_fix(
    fitted: PcaTransform, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "pca.pt"
    fitted.save(path)
    save_tensors(path, {**load_tensors(path), **changes})
    with pytest.raises(DamagedFileError, match=r"pca\.pt.*fusion\.refit"):
        PcaTransform.load(path)


def test_a_record_cannot_lead_out_of_the_folder(fitted: PcaTransform, tmp_path: Path) -> None:
    """A file outside the folder is refused, as its identity is not the name in the record."""
    store, made_by = TransformStore(tmp_path / "transforms"), {"data": "x"}
    store.save(fitted, made_by)
    fitted.save(tmp_path / "planted.pt")
    (record,) = store.folder.glob("*.json")
    record.write_text('{"transform": "../planted"}')
    with pytest.raises(DamagedFileError, match=r"planted\.pt holds pca2-raw"):
        store.newest(made_by, PcaTransform)

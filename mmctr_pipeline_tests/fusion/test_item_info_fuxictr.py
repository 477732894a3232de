"""FuxiCTR's own reader accepts the table of fused vectors."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.fusion.item_info import FILE_NAMES, write_item_info

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("method", ["pca", "attention"])
def test_fuxictr_reads_ids_tags_and_vectors(tmp_path: Path, method: str) -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    from fuxictr.preprocess.feature_processor import FeatureProcessor

    vectors = np.vstack([np.zeros(4), np.arange(8).reshape(2, 4)]).astype(np.float32)
    fused = VectorTable(
        np.array([0, 1, 3], np.int32), vectors, np.array([False, True, True]), "fused"
    )
    items = ItemTable(
        ids=np.array([1, 3]),
        item_id=np.array([1, 3], np.int32),
        title=pa.array(["a", "b"]),
        tags=Ragged.from_lists([[7], [8, 9]]),
        likes_level=np.zeros(2, np.int8),
        views_level=np.zeros(2, np.int8),
    )
    path = tmp_path / FILE_NAMES[method]
    write_item_info(path, fused, items)
    columns = [
        {"name": "item_id", "active": True, "dtype": "int", "type": "meta"},
        {"name": "item_tags", "active": True, "dtype": "int", "type": "sequence", "max_len": 5},
        {"name": "item_emb_d128", "active": True, "dtype": "float", "type": "embedding"},
    ]
    processor = FeatureProcessor(
        feature_cols=columns,
        label_col={"name": "label", "dtype": "float"},
        dataset_id="ours",
        data_root=str(tmp_path),
    )
    frame = processor.read_data(str(path), data_format="parquet").collect()
    assert frame["item_id"].to_list() == [0, 1, 2, 3]
    assert frame["item_tags"].to_list()[3] == [0, 0, 0, 8, 9]
    assert np.array_equal(
        np.array(frame["item_emb_d128"].to_list(), np.float32)[[0, 1, 3]], vectors
    )

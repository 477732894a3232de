"""Embedding tables."""

import torch

from mmctr_pipeline.models.layers.embedding import known_rows


def test_known_rows_sends_ids_beyond_the_table_to_row_zero() -> None:
    assert known_rows(torch.tensor([0, 1, 4, 5, 99]), 5).tolist() == [0, 1, 4, 0, 0]

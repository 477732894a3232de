"""The benchmark of ranks finds the bytes of a step in the log of a training."""

import logging

from torch import nn

from benchmarks.ranks import Traffic
from mmctr_pipeline.training import on_ray
from mmctr_pipeline.training.ranks import Ranks
from mmctr_pipeline.training.ranks import Traffic as RankTraffic


def test_it_reads_the_bytes_that_a_training_logs() -> None:
    handler = Traffic()
    on_ray.logger.addHandler(handler)
    on_ray.logger.setLevel(logging.INFO)
    try:
        traffic = RankTraffic(dense_bytes=3_730_184, row_bytes=900_000, n_steps=10)
        on_ray._log_result(nn.Linear(2, 1), Ranks(traffic=traffic))
    finally:
        on_ray.logger.removeHandler(handler)
        on_ray.logger.setLevel(logging.NOTSET)
    assert handler.found == {"dense_bytes": 3_730_184, "row_bytes": 90_000}

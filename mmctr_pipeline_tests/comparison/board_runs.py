"""A leaderboard of two quick rows on the small world; a process of its own, to be killed.

`python -m mmctr_pipeline_tests.comparison.board_runs STORAGE` runs it.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.runner import Entry, Runner
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

LONG_TRAINING = TrainingConfig(
    max_epochs=6, patience=6, batch_size=128, precision="float32", learning_rate=1e-3, seed=3
)
ENTRIES = (
    Entry("quick", SMALL_MODEL, QUICK_TRAINING),
    Entry(
        "long",
        DinConfig(
            features=FeatureConfig(embedding_dim=8, text_vectors=True),
            attention_hidden_dims=(8,),
            hidden_dims=(16,),
        ),
        LONG_TRAINING,
    ),
)


def small_inputs() -> TrainingInputs:
    """Return the small world with title vectors and without covers."""
    dataset, vectors = small_sample(n_train=3000, n_valid=600)
    text = dataclasses.replace(
        vectors.aligned_to(dataset.items.item_id), identity="small-world-titles"
    )
    n_items = len(dataset.items)
    none = np.zeros((n_items, 1), np.float32), np.zeros(n_items, bool)
    return TrainingInputs(dataset, vectors, text, VectorTable(text.item_id, *none, "none"))


def runner(storage: Path, log: Callable[[str], None], again: bool = False) -> Runner:
    """Return a runner that writes a checkpoint after every validation."""
    inputs, cpu = small_inputs(), torch.device("cpu")
    return Runner(inputs, storage, cpu, 20.0, log, again=again, checkpoint_seconds=0.0)


if __name__ == "__main__":
    runner(Path(sys.argv[1]), lambda line: print(line, flush=True)).run(ENTRIES)  # noqa: T201

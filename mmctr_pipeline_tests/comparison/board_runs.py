"""A comparison of two rows, `quick` and `long`, on a small dataset.

`python -m mmctr_pipeline_tests.comparison.board_runs STORAGE` runs it in a process that a test can
kill.
"""

import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np
import torch

from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.runner import Runner
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.presets.preset import Preset
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline_tests.training.small_sample import QUICK_TRAINING, SMALL_MODEL, small_sample

LONG_TRAINING = TrainingConfig(
    max_epochs=6, patience=6, batch_size=128, precision="float32", learning_rate=1e-3, seed=3
)
LONG_MODEL = DinConfig(
    features=FeatureConfig(embedding_dim=8, text_vectors=True),
    attention_hidden_dims=(8,),
    hidden_dims=(16,),
)
ENTRIES = (
    Entry("quick", Preset(model=SMALL_MODEL, training=QUICK_TRAINING)),
    Entry("long", Preset(model=LONG_MODEL, training=LONG_TRAINING)),
)


def small_inputs() -> TrainingInputs:
    """Return a small dataset with title vectors and without covers."""
    dataset, vectors = small_sample(n_train=3000, n_valid=600)
    item_id = dataset.items.item_id
    text = dataclasses.replace(vectors.fused.aligned_to(item_id), identity="small-titles")
    image = VectorTable(
        item_id, np.zeros((len(item_id), 1), np.float32), np.zeros(len(item_id), bool), "none"
    )
    return TrainingInputs(dataset, ItemVectors(vectors.fused, text, image))


def runner(storage: Path, again: bool = False) -> Runner:
    """Return a runner that writes a checkpoint after every validation."""
    inputs, cpu = small_inputs(), torch.device("cpu")
    return Runner(
        inputs.dataset,
        lambda entry: inputs.vectors,
        storage,
        cpu,
        minutes=20.0,
        again=again,
        checkpoint_seconds=0.0,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    runner(Path(sys.argv[1])).run(ENTRIES)

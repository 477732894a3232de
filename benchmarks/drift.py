"""Measure what a model loses on a drifting sample dataset when it is no longer trained.

    python -m benchmarks.drift

Writes a sample dataset by day, trains a model for the first night, which is the last day of the
first window, and scores the valid day of each later night with it. For the last night another
model is trained. The gap is the best possible AUC of a day minus that of a model on the same rows:
`lost` is the frozen model's gap on the last night minus that on the first, `behind` the AUC of the
model trained last minus that of the frozen one. No encoder runs: the model reads the vectors that
come with the data.
"""

import dataclasses
import logging
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import torch

from benchmarks.harness import final_line
from mmctr_pipeline import pipeline
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.items import read_given_vectors
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.sample.config import WINDOW_DAYS, SampleConfig
from mmctr_pipeline.sample.days import read_truth
from mmctr_pipeline.sample.timeline import Timeline
from mmctr_pipeline.sample.write import generate_sample
from mmctr_pipeline.training.ctr import TrainedCtr

logger = logging.getLogger(__name__)
DEVICE = torch.device("cpu")


class Nights:
    """The datasets of the nights of one sample dataset, and models for them."""

    def __init__(self, config: SampleConfig, folder: Path) -> None:
        generate_sample(config, folder)
        self._folder, self._timeline = folder, Timeline(config)
        self._layout = find_data(folder)
        self._vectors = ItemVectors(read_given_vectors(self._layout, "item_emb_d128"))

    def day(self, night: int) -> str:
        """Return the day that a night trains up to; night 0 is the end of the first window."""
        return self._timeline.date(WINDOW_DAYS - 1 + night)

    def dataset(self, night: int) -> CtrDataset:
        """Return the dataset of a night, whose valid rows are those of its day."""
        return pipeline.load_dataset(
            self._layout, DataConfig(day=self.day(night), min_valid_rows=1)
        )

    def train(self, dataset: CtrDataset) -> TrainedCtr:
        """Train the model of the preset `sample` on a dataset."""
        preset = load_preset("sample")
        training = dataclasses.replace(preset.training, batch_size=512)
        return pipeline.train(dataset, self._vectors, preset.model, training, DEVICE)

    def aucs(self, model: TrainedCtr, dataset: CtrDataset) -> tuple[float, float]:
        """Return the AUC of a model on the valid rows of a dataset, and the best possible one."""
        label = dataset.valid.label
        assert label is not None
        scores = pipeline.score(model, dataset, dataset.valid, self._vectors, DEVICE)
        truth = read_truth(self._folder, [dataset.day])
        return auc(label, scores), auc(label, truth.column("probability").to_numpy())


def main() -> None:
    """Run the benchmark."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--drift", type=float, default=SampleConfig().drift)
    parser.add_argument("--nights", type=int, default=7)
    parser.add_argument("--scale", type=float, default=10.0, help="1 has 40,000 rows in 28 days")
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    config = SampleConfig.scaled(
        chosen.scale, days=chosen.nights, drift=chosen.drift, seed=chosen.seed, images=False
    )
    with tempfile.TemporaryDirectory() as folder:
        nights = Nights(config, Path(folder))
        first = nights.dataset(0)
        frozen = nights.train(first)
        gaps = []
        for night in range(chosen.nights + 1):
            dataset = nights.dataset(night)
            found, best = nights.aucs(frozen, dataset)
            gaps.append(best - found)
            logger.info(
                f"night {night}, {nights.day(night)}, {len(dataset.valid):,} valid rows: frozen "
                f"model {found:.4f}, best possible {best:.4f}, gap {best - found:.4f}"
            )
        fresh, _ = nights.aucs(nights.train(dataset), dataset)
    logger.info(f"model trained for night {chosen.nights}: {fresh:.4f}")
    final_line(
        drift=chosen.drift,
        train_rows=len(first.train),
        valid_rows=len(dataset.valid),
        gap_of_the_first_night=gaps[0],
        lost=gaps[-1] - gaps[0],
        behind=fresh - found,
    )


if __name__ == "__main__":
    main()

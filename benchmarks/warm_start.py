"""Training that begins with the last night's weights, against training from scratch, over days.

    python -m benchmarks.warm_start [--nights N] [--rows N] [--preset NAME]

On a drifting sample dataset by day, each night trains twice on the window that ends with its day:
from scratch, and with the weights of the night before (`training.warm_start`). Both models score
the rows of the day after, which neither has seen. `ours` is the mean AUC of the warm start, `peer`
that of training from scratch; `difference` is the mean over nights with its 95 % interval (paired
DeLong by night), `ratio` the seconds of training from scratch by those of the warm start.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks.harness import final_line, report
from mmctr_pipeline import metrics, pipeline
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.encoders.store.vector_store import VectorStore
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.days import generate_days
from mmctr_pipeline.training.ctr import TrainedCtr
from mmctr_pipeline.training.device import resolve_device
from mmctr_pipeline.training.warm_start import WarmStart

_MIN_VALID_ROWS = 5_000
_MIN_RATIO = 4.0


class Nights:
    """The nights of one sample dataset: their data, their vectors, and models trained on them."""

    def __init__(self, folder: Path, n_nights: int, n_rows: int, preset: str) -> None:
        # One day more than nights, to score the last ones on.
        sample = SampleConfig(n_train_rows=n_rows, days=n_nights + 2)
        summary = generate_days(sample, folder / "data")
        self.days = [day["day"] for day in summary["days"]][-n_nights - 2 :]
        self.preset, self.device = load_preset(preset), resolve_device("auto")
        self.layout, self.folder = find_data(folder / "data"), folder

    def data(self, night: int) -> tuple[CtrDataset, ItemVectors]:
        """Return the window that ends with a night's day, and the vectors of its items."""
        config = DataConfig(day=self.days[night], min_valid_rows=_MIN_VALID_ROWS)
        dataset = pipeline.load_dataset(self.layout, config)
        store, encoders = VectorStore(self.folder / "vectors"), self.preset.encoders
        inputs = (store, self.device)
        items = dataset.items
        text = pipeline.encode_titles(self.layout, items, encoders.text, *inputs).table
        image = pipeline.encode_images(self.layout, items, encoders.image, *inputs).table
        transforms = self.folder / "transforms"
        fused = pipeline.fuse(
            self.layout, items, text, image, self.preset.fusion, transforms, self.device, config
        ).vectors
        return dataset, ItemVectors(fused, text, image)

    def trained(
        self, dataset: CtrDataset, vectors: ItemVectors, start: WarmStart | None
    ) -> tuple[TrainedCtr, float]:
        """Train a model, and measure the seconds."""
        begin = time.perf_counter()
        trained = pipeline.train(
            dataset,
            vectors,
            self.preset.model,
            self.preset.training,
            self.device,
            warm_start=start,
        )
        return trained, time.perf_counter() - begin

    def score_next_day(self, night: int, models: list[TrainedCtr]) -> tuple[np.ndarray, list[Any]]:
        """Return the labels of the day after a night, and the scores of each model."""
        config = DataConfig(day=self.days[night + 1], min_valid_rows=1)
        dataset = pipeline.load_dataset(self.layout, config)
        _, vectors = self.data(night + 1)
        label = dataset.valid.label
        assert label is not None
        scores = [
            pipeline.score(model, dataset, dataset.valid, vectors, self.device) for model in models
        ]
        return label, scores


def start_from(trained: TrainedCtr, dataset: CtrDataset, vectors: ItemVectors) -> WarmStart:
    """Return the weights of a night's model."""
    return WarmStart(
        name=f"the model of {dataset.day}",
        state_dict=trained.module.state_dict(),
        model_config=trained.model_config,
        spec=trained.spec,
        id_maps=trained.id_maps,
        vectors=vectors.identities,
        last_train_day=max(dataset.train_rows_by_day),
    )


def faults(low: float, ratio: float) -> list[str]:
    """Return why training from scratch should stay the default.

    Parameters
    ----------
    low
        Lower end of the interval of the warm start's AUC minus that of training from scratch.
    ratio
        Seconds of training from scratch by those of the warm start.
    """
    margin, found = PromotionConfig().margin, []
    if low < -margin:
        found.append(f"the warm start may be worse by {-low:.4f} AUC, more than {margin}")
    if ratio < _MIN_RATIO:
        found.append(f"training from scratch takes only {ratio:.1f} times as long")
    return found


def main() -> int:
    """Train on each night, print the table, and return 1 if the warm start is no good default."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nights", type=int, default=3)
    parser.add_argument("--rows", type=int, default=40_000, help="of the first window")
    parser.add_argument("--preset", default="sample")
    chosen = parser.parse_args()
    rows, seconds = [], {"scratch": 0.0, "warm": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        nights = Nights(Path(folder), chosen.nights, chosen.rows, chosen.preset)
        dataset, vectors = nights.data(0)
        first, _ = nights.trained(dataset, vectors, None)
        warm = first
        for night in range(1, chosen.nights + 1):
            start = start_from(warm, dataset, vectors)
            dataset, vectors = nights.data(night)
            scratch, scratch_seconds = nights.trained(dataset, vectors, None)
            warm, warm_seconds = nights.trained(dataset, vectors, start)
            seconds["scratch"] += scratch_seconds
            seconds["warm"] += warm_seconds
            label, scores = nights.score_next_day(night, [warm, scratch, first])
            paired = metrics.compare_auc(label, scores[0], scores[1])
            areas = [metrics.auc(label, each) for each in scores]
            row = {"day": nights.days[night], "rows": len(label)}
            row |= dict(zip(("warm", "scratch", "first night"), areas, strict=True))
            row |= {"difference": paired.difference, "error": paired.standard_error}
            row |= {"scratch s": scratch_seconds, "warm s": warm_seconds}
            rows.append(row)
    print(tabulate(rows, headers="keys", floatfmt=".4f"))
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("warm", "scratch")}
    error = float(np.sqrt(np.sum([row["error"] ** 2 for row in rows]))) / len(rows)
    difference = mean["warm"] - mean["scratch"]
    low, ratio = difference - 1.96 * error, seconds["scratch"] / seconds["warm"]
    final_line(
        name="warm_start",
        ours=mean["warm"],
        peer=mean["scratch"],
        ratio=ratio,
        unit="AUC; ratio of seconds",
        difference=difference,
        low=low,
        high=difference + 1.96 * error,
        nights=chosen.nights,
        preset=chosen.preset,
    )
    return report(faults(low, ratio))


if __name__ == "__main__":
    sys.exit(main())

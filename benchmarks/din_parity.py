"""Valid AUC of DIN: ours against one assembled from FuxiCTR's own layers, over seeds.

    python -m benchmarks.din_parity [--seeds N] [--device D]
    python -m benchmarks.din_parity --full [--seeds N] [--device D]

Both sides are trained on a sample dataset with 50,000 valid rows and keep their best epoch. They
have the same features (id, mean of the tags, item_emb_d128 times a learned matrix; the row's
levels), Adam, L2, batch size, learning rate and number of epochs. For each seed, both have the same
initial weights and order of rows, and no dropout, so only the layers and the engine differ. The
peer (`PlainDin` in `benchmarks/din.py`) pads histories and computes in float32. Ours computes in
the precision that `auto` selects (`ours`) and in float32 (`ours_float32`).

`difference` is the AUC of ours minus that of the peer; `low` and `high` are the ends of its 95 %
interval over seeds and valid rows. The verdict is `equal` if both ends are within 0.003 of zero,
else that of `comparison/statistics.py`.

By default the networks are narrow enough for two cores; with `--full` they have the widths of the
challenge's baseline. Needs the `bench` extra.
"""

import dataclasses
import importlib.util
import json
import logging
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import ALLOCATOR_SETTING, alternate
from benchmarks.parity import parity_parser, report, save_scores, saved_scores
from mmctr_pipeline.environment import share_cores
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.training.config import TrainingConfig

logger = logging.getLogger(__name__)

N_VALID_ROWS, N_SEEDS = 50_000, 5
EMBEDDING_L2, NETWORK_L2 = 1e-6, 1e-5
CLIP_NORM = 10.0


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and the amount of training."""

    n_rows: int
    n_epochs: int
    batch_size: int
    model: DinConfig


# The attention has ReLU, since FuxiCTR's Dice normalises over padding too, and ours does not.
NARROW = Size(
    n_rows=40_000,
    n_epochs=3,
    batch_size=512,
    model=DinConfig(
        features=FeatureConfig(
            vector_projection=True, embedding_dim=16, level_embedding_dim=16, max_history=20
        ),
        attention_hidden_dims=(32, 16),
        attention_activation="relu",
        attention_dropout=0.0,
        hidden_dims=(64, 32),
        dropout=0.0,
    ),
)
FULL = Size(
    n_rows=200_000,
    n_epochs=2,
    batch_size=4096,
    model=DinConfig(
        features=FeatureConfig(vector_projection=True, embedding_dim=128, level_embedding_dim=128),
        attention_activation="relu",
        attention_dropout=0.0,
        dropout=0.0,
    ),
)


def fuxictr(chosen: Namespace) -> dict[str, float]:
    """Train the peer with every seed and save the scores of its best epochs."""
    share_cores()  # before torch, as for ours
    import torch

    from benchmarks.din import PlainDin
    from benchmarks.plain_models import PaddedTraining, padded_rows, take_weights
    from benchmarks.samples import read_sample
    from mmctr_pipeline.metrics import auc
    from mmctr_pipeline.models.din import Din
    from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
    from mmctr_pipeline.training.device import resolve_device, seeded

    size, device = _size(chosen), resolve_device(chosen.device)
    dataset, vectors = read_sample(chosen.data)
    items = item_features(dataset.items, vectors, size.model)
    width = size.model.features.max_history
    train, valid = (
        BatchSource(split, dataset.histories, items.to(device), device, width)
        for split in (dataset.train, dataset.valid)
    )
    start = time.perf_counter()
    for seed in range(chosen.seeds):
        with seeded(seed, device):
            ours = Din(size.model, feature_spec(dataset, vectors, size.model))
            ours.fit_statistics(items, dataset.train, dataset.histories)
        peer = PlainDin(size.model, ours, items)
        take_weights(peer, ours)
        training = PaddedTraining(peer, _training(size, seed), device)
        areas, scores = [], []
        for epoch in range(1, size.n_epochs + 1):
            for batch in train.shuffled(size.batch_size, seed, epoch):
                training.step(padded_rows(batch, width))
            peer.eval()
            with torch.inference_mode():
                logits = [peer(padded_rows(batch, width)) for batch in valid.in_order(4096)]
            scores.append(torch.sigmoid(torch.cat(logits)).cpu().numpy())
            areas.append(auc(dataset.valid.label, scores[-1]))
            logger.info(f"seed {seed}, epoch {epoch}: valid AUC {areas[-1]:.4f}")
        save_scores(chosen, seed, scores[int(np.argmax(areas))])
    return {"seconds": time.perf_counter() - start}


def ours(precision: str) -> Callable[[Namespace], dict[str, float]]:
    """Return a side that trains with the pipeline's engine."""

    def side(chosen: Namespace) -> dict[str, float]:
        share_cores()  # before torch, as in every entry point of the pipeline
        from benchmarks.samples import read_sample
        from mmctr_pipeline.pipeline import train
        from mmctr_pipeline.training.device import resolve_device

        size, device = _size(chosen), resolve_device(chosen.device)
        dataset, vectors = read_sample(chosen.data)
        start = time.perf_counter()
        for seed in range(chosen.seeds):
            training = dataclasses.replace(_training(size, seed), precision=precision)
            trained = train(dataset, vectors, size.model, training, device)
            save_scores(chosen, seed, trained.valid_scores)
        return {"seconds": time.perf_counter() - start}

    return side


def _training(size: Size, seed: int) -> TrainingConfig:
    return TrainingConfig(
        seed=seed,
        max_epochs=size.n_epochs,
        patience=size.n_epochs,
        batch_size=size.batch_size,
        label_smoothing=0.0,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=NETWORK_L2,
        embedding_weight_decay=EMBEDDING_L2,
        schedule="constant",
        gradient_clip_norm=CLIP_NORM,
    )


SIDES = {"fuxictr": fuxictr, "ours": ours("auto"), "ours_float32": ours("float32")}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = parity_parser(__doc__, list(SIDES))
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    chosen = parser.parse_args()
    if importlib.util.find_spec("fuxictr") is None:
        sys.exit("the peer is built from the fuxictr package: make install EXTRAS=dev,bench")
    if chosen.side:
        print(json.dumps(SIDES[chosen.side](chosen)))
        return
    n_rows = chosen.rows or _size(chosen).n_rows
    from benchmarks.samples import write_scaled

    settings = dict.fromkeys(SIDES, ALLOCATOR_SETTING)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        label = write_scaled(data, n_rows, N_VALID_ROWS)
        arguments = [f"--data={data}", f"--device={chosen.device}", f"--seeds={chosen.seeds}"]
        arguments += ["--full"] if chosen.full else []
        alternate("benchmarks.din_parity", list(SIDES), 1, arguments, settings, True)
        scores = saved_scores(data, list(SIDES), chosen.seeds)
    report("din_parity", label, scores, n_rows, equal=True)


def _size(chosen: Namespace) -> Size:
    return FULL if chosen.full else NARROW


if __name__ == "__main__":
    main()

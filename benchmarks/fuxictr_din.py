"""FuxiCTR's DIN, built from the package's layers as in the challenge's baseline, against ours.

    python -m benchmarks.fuxictr_din [--data FOLDER] [--leaderboard FOLDER] [--kept] [--seeds N]

FuxiCTR's own training loop trains it on the rows and vectors of `mmctr leaderboard`: `MMCTR_PRESET`
sets encoders and fusion, `--data` or `MMCTR_DATA_DIR` the data, by default the sample dataset. As
in the leaderboard, one half of the valid users selects the epoch, and the other half gives the AUC.
The scores are stored beside the leaderboard's rows; `--kept` reuses those of an earlier run with
equal data, vectors and `--epochs`. `--leaderboard FOLDER` compares each row of the table in that
folder with FuxiCTR's DIN. Then `ours` is the AUC of the table's first row, and `difference` is that
AUC minus FuxiCTR's, with the 95 % interval `low` to `high`.

Settings: batches of 4,096 rows, the newest 20 items of a history, Adam at 1e-3 (divided by ten
after each epoch without a better AUC), L2 of 1e-6 on embeddings, dropout 0.1, at most 12 epochs,
patience 2; attention 512-256 with Dice, tower 1024-512-256 with BatchNorm and ReLU, as in the
baseline's public configuration; id and tags of 64 dimensions, the fused vector times a learned
matrix, the row's levels as context. `din_fuxictr_settings.yaml` is our DIN with these settings.
"""

import dataclasses
import importlib.util
import json
import logging
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import final_line
from benchmarks.plain_recipe import padded
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.inputs import TrainingInputs
from mmctr_pipeline.comparison.row import read_scores
from mmctr_pipeline.comparison.row_vectors import RowVectors
from mmctr_pipeline.comparison.statistics import auc_difference
from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.user_split import split_valid
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.pipeline import load_dataset
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import ensure_sample
from mmctr_pipeline.training.batch_source import item_features
from mmctr_pipeline.training.device import resolve_device

BATCH_SIZE, HISTORY_LENGTH = 4096, 20
MAX_EPOCHS, PATIENCE = 12, 2
EMBEDDING_DIM, N_LEVELS = 64, 11
ATTENTION_DIMS, TOWER_DIMS, DROPOUT = [512, 256], [1024, 512, 256], 0.1
LEARNING_RATE, EMBEDDING_L2 = 1e-3, 1e-6
FIRST_SEED = 42

logger = logging.getLogger(__name__)

Rows = dict[str, torch.Tensor]


class PaddedBatches:
    """Batches of one split: levels and label `(B,)`, and `items` `(B, 21)`.

    `items` holds padding zeros, the newest 20 of the history, and the target.
    """

    def __init__(
        self, split: Split, histories: torch.Tensor, shuffle_seed: int | None = None
    ) -> None:
        """`histories` is `(H, 20) int64`; without a seed, rows keep the split's order."""
        assert split.label is not None
        columns = {"label": split.label.astype(np.float32)}
        for name in ("likes_level", "views_level", "item_id", "history"):
            columns[name] = getattr(split, name).astype(np.int64)
        self.columns = {name: torch.from_numpy(column) for name, column in columns.items()}
        self.histories = histories
        generator = torch.Generator().manual_seed(shuffle_seed or 0)
        self.generator = None if shuffle_seed is None else generator

    def __len__(self) -> int:
        return -(-len(self.columns["label"]) // BATCH_SIZE)

    def __iter__(self) -> Iterator[Rows]:
        n_rows = len(self.columns["label"])
        order = torch.arange(n_rows)
        if self.generator is not None:
            order = torch.randperm(n_rows, generator=self.generator)
        for rows in order.split(BATCH_SIZE):
            batch = {name: column[rows] for name, column in self.columns.items()}
            history, target = batch.pop("history"), batch.pop("item_id")
            items = torch.cat([self.histories[history], target.unsqueeze(1)], dim=1)
            yield {**batch, "items": items}


def padded_histories(dataset: CtrDataset) -> torch.Tensor:
    """Return the newest 20 of each distinct history, `(H, 20) int64`, zeros first."""
    return torch.from_numpy(padded(dataset.histories)[:, -HISTORY_LENGTH:].copy())


def _feature_map(n_items: int, n_tags: int, vector_dim: int, folder: Path) -> Any:
    """Return the package's description of the features."""
    from fuxictr.features import FeatureMap

    feature_map = FeatureMap("leaderboard", str(folder))
    feature_map.labels = ["label"]
    feature_map.default_emb_dim = EMBEDDING_DIM
    level = {"type": "categorical", "vocab_size": N_LEVELS}
    item = {"source": "item", "padding_idx": 0}
    pooled = {"feature_encoder": "layers.MaskedAveragePooling()"}
    widths = {"embedding_dim": vector_dim, "pretrain_dim": vector_dim}
    feature_map.features = OrderedDict(
        likes_level=level,
        views_level=level,
        item_id={"type": "categorical", "vocab_size": n_items, **item},
        item_tags={"type": "sequence", "vocab_size": n_tags, **item, **pooled},
        item_vector={"type": "embedding", "source": "item", **widths},
    )
    return feature_map


def build_din(items: ItemFeatures, seed: int, folder: Path) -> Any:
    """Return the model, with the package's own training; it stores its best weights in `folder`."""
    from fuxictr.pytorch.layers import Dice, DIN_Attention, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel
    from fuxictr.pytorch.torch_utils import seed_everything

    n_items, vector_dim = items.vectors_ID.shape
    n_tags = int(items.tags_IK.max()) + 1
    feature_map = _feature_map(n_items, n_tags, vector_dim, folder)
    item_dim = 2 * EMBEDDING_DIM + vector_dim

    class Din(BaseModel):
        """A tower over target, attention-pooled history and context, as in the baseline."""

        def __init__(self) -> None:
            super().__init__(
                feature_map,
                model_id="DIN",
                embedding_regularizer=EMBEDDING_L2,
                net_regularizer=None,
                early_stop_patience=PATIENCE,
                verbose=0,
                model_root=str(folder),
                metrics=["AUC", "logloss"],
            )
            self.embedding_layer = FeatureEmbedding(feature_map, EMBEDDING_DIM)
            dice = [Dice(dim) for dim in ATTENTION_DIMS]
            self.attention = DIN_Attention(
                item_dim, ATTENTION_DIMS, dice, dropout_rate=DROPOUT, use_softmax=False
            )
            self.tower = MLP_Block(
                input_dim=2 * EMBEDDING_DIM + 2 * item_dim,
                hidden_units=TOWER_DIMS,
                hidden_activations="ReLU",
                output_dim=1,
                output_activation=self.output_activation,
                dropout_rates=DROPOUT,
                batch_norm=True,
            )
            self.compile("adam", "binary_crossentropy", LEARNING_RATE)
            self.reset_parameters()

        def forward(self, inputs: Rows) -> Rows:
            ids = inputs["items"].flatten()
            item_inputs = {"item_id": ids, "item_tags": items.tags_IK[ids]}
            item_inputs["item_vector"] = items.vectors_ID[ids]
            levels = {name: inputs[name] for name in ("likes_level", "views_level")}
            context = self.embedding_layer(levels, flatten_emb=True)
            embedded = self.embedding_layer(item_inputs, flatten_emb=True)
            embedded = embedded.unflatten(0, inputs["items"].shape)
            target, history = embedded[:, -1], embedded[:, :-1]
            interest = self.attention(target, history, inputs["items"][:, :-1] != 0)
            return {"y_pred": self.tower(torch.cat([context, target, interest], dim=1))}

        def get_labels(self, inputs: Rows) -> torch.Tensor:
            return inputs["label"].unsqueeze(1)

    seed_everything(seed)
    Path(folder, feature_map.dataset_id).mkdir(parents=True, exist_ok=True)
    return Din()


def train_din(inputs: TrainingInputs, seed: int, max_epochs: int = MAX_EPOCHS) -> np.ndarray:
    """Train the model and return its probabilities of the reporting rows, `(N,) float32`."""
    dataset = inputs.dataset
    selecting, reporting = split_valid(dataset)
    histories = padded_histories(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        items = item_features(dataset.items, inputs.vectors, DinConfig())
        model = build_din(items, seed, Path(scratch))
        logger.info(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
        model.fit(
            PaddedBatches(dataset.train, histories, shuffle_seed=seed),
            epochs=max_epochs,
            validation_data=PaddedBatches(selecting, histories),
        )
        scores = model.predict(PaddedBatches(reporting, histories))
    return np.asarray(scores, np.float32)


def compare(table: Path, inputs: TrainingInputs, peer: list[np.ndarray]) -> list[dict[str, Any]]:
    """Return the rows of a table's JSON file, each with its AUC minus that of `peer`.

    `peer` holds scores by seed; surplus seeds of either side are ignored, and so are rows that
    failed. Raises `SystemExit` if the table was made from other data or vectors than `inputs`.
    """
    rows = json.loads(table.read_text(encoding="utf-8"))["rows"]
    if any(key != inputs.key for row in rows for key in row["inputs"]):
        raise SystemExit(
            f"{table} was made from other data or vectors: run the leaderboard and this benchmark "
            "with the same MMCTR_DATA_DIR (--data), MMCTR_PRESET and MMCTR_STORAGE_DIR"
        )
    label = _reporting_label(inputs)
    compared = []
    for row in rows:
        if "failure" in row:
            continue
        n_seeds = min(len(row["keys"]), len(peer))
        scores = [read_scores(table.parent / key) for key in row["keys"][:n_seeds]]
        difference = dataclasses.asdict(auc_difference(label, scores, peer[:n_seeds]))
        mean = float(np.mean([auc(label, of_seed) for of_seed in scores]))
        compared.append({"row": row["row"], "auc": mean, "seeds": n_seeds, **difference})
    return compared


def _reporting_label(inputs: TrainingInputs) -> np.ndarray:
    label = split_valid(inputs.dataset)[1].label
    assert label is not None
    return label


def main() -> None:
    """Train FuxiCTR's DIN, measure it, and compare."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="default: MMCTR_DATA_DIR or the sample dataset")
    parser.add_argument("--leaderboard", type=Path, help="folder of the table to compare with")
    parser.add_argument("--table", default="leaderboard", help="name of that table's files")
    parser.add_argument("--kept", action="store_true", help="reuse scores of an earlier run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=MAX_EPOCHS, help="at most")
    chosen = parser.parse_args()
    if importlib.util.find_spec("fuxictr") is None:
        raise SystemExit(
            "this benchmark trains a model of the package fuxictr, which is not installed: "
            "make install EXTRAS=dev,bench"
        )
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    inputs, storage = _inputs(chosen.data)
    folder = (chosen.leaderboard or storage / "leaderboard") / f"fuxictr_din-{inputs.key}"
    label = _reporting_label(inputs)
    start, scores = time.monotonic(), []
    for seed in range(FIRST_SEED, FIRST_SEED + chosen.seeds):
        kept = folder / f"scores-{seed}-epochs-{chosen.epochs}.npy"
        if not (chosen.kept and kept.exists()):
            trained = train_din(inputs, seed, chosen.epochs)
            with atomic_write(kept) as temporary:
                np.save(temporary, trained)
        scores.append(np.load(kept))
        logger.info(f"seed {seed}: AUC {auc(label, scores[-1]):.4f} on {len(label):,} rows")
    peer_areas = [auc(label, of_seed) for of_seed in scores]
    line: dict[str, Any] = {"ours": None, "peer": float(np.mean(peer_areas)), "ratio": None}
    line |= {"unit": "AUC", "seeds": chosen.seeds, "rows": len(label), "scores": str(folder)}
    if chosen.leaderboard:
        compared = compare(chosen.leaderboard / f"{chosen.table}.json", inputs, scores)
        for row in compared:
            logger.info(json.dumps(row))
        if compared:
            first = compared[0]
            peer = float(np.mean(peer_areas[: first["seeds"]]))
            line |= first | {"ours": first["auc"], "peer": peer, "ratio": first["auc"] / peer}
    final_line(name="fuxictr_din", **line, seconds=time.monotonic() - start)


def _inputs(data: Path | None) -> tuple[TrainingInputs, Path]:
    """Return the training inputs of this deployment's leaderboard, and its storage folder."""
    deployment = Deployment.from_environment()
    if data is not None:
        deployment = dataclasses.replace(deployment, data_dir=data.resolve())
    storage, device = deployment.storage_dir, resolve_device(deployment.device)
    layout = find_data(deployment.data_dir or ensure_sample(SampleConfig(), storage / "sample"))
    dataset = load_dataset(layout)
    entry = Entry("deployment", load_preset(preset_name(deployment)))
    vectors = RowVectors(layout, dataset.items, storage, device)(entry)
    return TrainingInputs(dataset, vectors), storage


if __name__ == "__main__":
    main()

"""Count co-interactions: ours, a sparse product in SciPy, against a self-join in Polars.

Both sides start from the distinct interactions of users with items. The result is the pairs of
items that share users, in ascending order, each with the number of shared users.

    python -m benchmarks.co_interactions [--rounds N]

Generates a sample dataset of 3,600,000 train rows, without images. `model_mb` is the size of the
counts in memory and in a model file. `unmerged_pairs` is the number of pairs if a pair that three
users share counts three times. For comparison, `sort_seconds` is the time to sort that many random
numbers.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import alternate, command_line, final_line, medians, peak_memory_mb
from benchmarks.samples import write_full_size
from mmctr_pipeline.data.co_interactions import (
    CoInteractions,
    count_co_interactions,
    distinct_interactions,
)
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.pipeline import load_dataset


def ours(dataset: CtrDataset, n_items: int) -> CoInteractions:
    """Count as the model does."""
    return count_co_interactions(dataset.train, dataset.histories, n_items)


def peer(dataset: CtrDataset, n_items: int) -> CoInteractions:
    """Count by joining the interactions with themselves."""
    import polars

    interaction_E = distinct_interactions(dataset.train, dataset.histories, n_items)
    user_E, item_E = np.divmod(interaction_E, n_items)
    frame = polars.DataFrame({"user": user_E, "item": item_E}).lazy()
    pairs = (
        frame.join(frame, on="user", suffix="_b")
        .filter(polars.col("item") < polars.col("item_b"))
        .select(pair=polars.col("item") * n_items + polars.col("item_b"))
        .group_by("pair")
        .len()
        .sort("pair")
        .collect()
    )
    return CoInteractions(
        n_items=n_items,
        interaction_E=interaction_E,
        users_of_item_I=np.bincount(item_E, minlength=n_items).astype(np.int32),
        pair_P=pairs["pair"].to_numpy(),
        users_of_pair_P=pairs["len"].to_numpy().astype(np.int32),
    )


SIDES = {"ours": ours, "peer": peer}


def _measure(side: str, data: Path) -> dict[str, Any]:
    dataset = load_dataset(find_data(data))
    n_items = int(dataset.items.item_id.max()) + 1
    start = time.perf_counter()
    counts = SIDES[side](dataset, n_items)
    result = {"seconds": time.perf_counter() - start, "peak_mb": peak_memory_mb()}
    n_unmerged = int(counts.users_of_pair_P.sum())
    key_P = np.random.default_rng(0).integers(0, n_items**2, n_unmerged)
    start = time.perf_counter()
    key_P.sort()
    return result | {
        "sort_seconds": time.perf_counter() - start,
        "interactions": len(counts.interaction_E),
        "pairs": len(counts.pair_P),
        "unmerged_pairs": n_unmerged,
        "checksum": int((counts.pair_P % 1_000_003 * counts.users_of_pair_P).sum()),
        "model_mb": sum(
            array.nbytes for array in vars(counts).values() if isinstance(array, np.ndarray)
        )
        / 2**20,
    }


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, list(SIDES), rounds=1)
    parser.add_argument("--data", type=Path, help="folder of the dataset; with --side")
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(_measure(chosen.side, chosen.data)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        write_full_size(Path(scratch))
        arguments = ["--data", scratch]
        results = alternate("benchmarks.co_interactions", list(SIDES), chosen.rounds, arguments)
    sides = {side: medians(rounds) for side, rounds in results.items()}
    for name in ("interactions", "pairs", "unmerged_pairs", "checksum"):
        if sides["ours"][name] != sides["peer"][name]:
            raise SystemExit(f"the sides differ in {name}: {sides}")
    final_line(
        name="co_interactions",
        ours=sides["ours"]["seconds"],
        peer=sides["peer"]["seconds"],
        ratio=sides["peer"]["seconds"] / sides["ours"]["seconds"],
        unit="s",
        ours_peak_mb=sides["ours"]["peak_mb"],
        peer_peak_mb=sides["peer"]["peak_mb"],
        **{
            name: sides["ours"][name]
            for name in ("sort_seconds", "interactions", "pairs", "unmerged_pairs")
        },
        model_mb=sides["ours"]["model_mb"],
    )


if __name__ == "__main__":
    main()

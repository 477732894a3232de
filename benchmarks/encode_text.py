"""Encode titles with all-MiniLM-L6-v2: ours against sentence-transformers.

    python -m benchmarks.encode_text [--titles FILE] [--n N]

`peer` works like recipe A, `encode(batch_size=256)` in float32. `best` is the library in bfloat16
(if the machine has instructions for it), with the batch size that is fastest in a trial on the
first titles. FILE is an item_feature.parquet; by default the titles are those of a sample dataset.
`floor_per_second` is the rate that would result if only the products of the forward pass, without
padding, took time and ran as fast as one large product in the same precision.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import alternate, command_line, final_line, medians, product_rate
from mmctr_pipeline.environment import share_cores

Encode = Callable[[list[str]], np.ndarray]
BATCH_SIZES = (8, 16, 32, 64)


def ours() -> Encode:
    """Encode like the pipeline, without the vector store."""
    import torch

    from mmctr_pipeline.encoders.locate import locate_text_model
    from mmctr_pipeline.encoders.text.models import SentenceModel
    from mmctr_pipeline.precision import dtype_for

    dtype = dtype_for("auto", "cpu")
    model = SentenceModel(locate_text_model("all-MiniLM-L6-v2"), torch.device("cpu"), dtype)
    return lambda titles: model.encode(titles, batch_tokens=1024)


def peer() -> Encode:
    """Encode like recipe A."""
    model = _library("float32")
    return lambda titles: model.encode(titles, batch_size=256, show_progress_bar=False)


def best() -> Encode:
    """Encode with the library's fastest settings."""
    from mmctr_pipeline.precision import dtype_for, dtype_name

    model = _library(dtype_name(dtype_for("auto", "cpu")))

    def encode(titles: list[str], batch_size: int) -> np.ndarray:
        return model.encode(titles, batch_size=batch_size, show_progress_bar=False)

    fastest = 0

    def encode_fastest(titles: list[str]) -> np.ndarray:
        nonlocal fastest
        if not fastest:
            trial = titles[:256]
            encode(trial, BATCH_SIZES[0])  # a warm-up
            seconds = {}
            for size in BATCH_SIZES:
                start = time.perf_counter()
                encode(trial, size)
                seconds[size] = time.perf_counter() - start
            fastest = min(BATCH_SIZES, key=lambda size: seconds[size])
        return encode(titles, fastest)

    return encode_fastest


SIDES = {"ours": ours, "peer": peer, "best": best}


def main() -> None:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, list(SIDES), rounds=3)
    parser.add_argument("--titles", type=Path)
    parser.add_argument("--n", type=int, default=1536)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    share_cores()
    if chosen.side:
        titles = json.loads((chosen.folder / "titles.json").read_text(encoding="utf-8"))
        encode = SIDES[chosen.side]()
        encode(titles[:256])
        start = time.perf_counter()
        vectors = encode(titles)
        seconds = time.perf_counter() - start
        np.save(chosen.folder / f"{chosen.side}.npy", np.asarray(vectors, dtype=np.float32))
        print(json.dumps({"seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        titles = read_titles(chosen.titles, chosen.n, folder)
        (folder / "titles.json").write_text(json.dumps(titles), encoding="utf-8")
        results = alternate(
            "benchmarks.encode_text", list(SIDES), chosen.rounds, ["--folder", scratch]
        )
        vectors = {side: np.load(folder / f"{side}.npy") for side in SIDES}
    seconds = {side: medians(rounds)["seconds"] for side, rounds in results.items()}
    unit = {side: array / np.linalg.norm(array, axis=1)[:, None] for side, array in vectors.items()}
    cosine = {side: (unit[side] * unit["peer"]).sum(axis=1) for side in ("ours", "best")}
    operations, rate = _operations(titles), product_rate()
    final_line(
        name="encode_text",
        ours=len(titles) / seconds["ours"],
        peer=len(titles) / seconds["peer"],
        ratio=seconds["peer"] / seconds["ours"],
        unit="titles/s",
        best=len(titles) / seconds["best"],
        ratio_best=seconds["best"] / seconds["ours"],
        floor_per_second=rate / (operations / len(titles)),
        share_of_floor=operations / rate / seconds["ours"],
        mean_cosine=float(cosine["ours"].mean()),
        least_cosine=float(cosine["ours"].min()),
        mean_cosine_best=float(cosine["best"].mean()),
        titles=len(titles),
        data=chosen.titles.name if chosen.titles else "sample dataset",
    )


def _library(dtype: str) -> "SentenceTransformer":  # noqa: F821
    import torch
    from sentence_transformers import SentenceTransformer

    from mmctr_pipeline.encoders.locate import locate_text_model

    return SentenceTransformer(
        str(locate_text_model("all-MiniLM-L6-v2").folder),
        device="cpu",
        local_files_only=True,
        model_kwargs={"dtype": getattr(torch, dtype)},
    )


def read_titles(path: Path | None, n_titles: int, folder: Path) -> list[str]:
    """Return at most `n_titles` titles of a file or a sample dataset, drawn with a fixed seed."""
    if path is None:
        from mmctr_pipeline.data.discovery import find_data
        from mmctr_pipeline.sample.config import SampleConfig
        from mmctr_pipeline.sample.write import generate_sample

        config = SampleConfig.scaled(20.0, n_train_rows=1000, images=False)
        generate_sample(config, folder / "sample")
        path = find_data(folder / "sample").item_feature
    column = pq.read_table(path, columns=["item_title"]).column("item_title").to_pylist()
    titles = [title for title in column if title and title.strip()]
    rows = np.random.default_rng(0).permutation(len(titles))[:n_titles]
    return [titles[row] for row in rows]


def _operations(titles: list[str]) -> float:
    """Return the floating-point operations of all products, without padding."""
    from transformers import AutoConfig, AutoTokenizer

    from mmctr_pipeline.encoders.locate import locate_text_model

    folder = str(locate_text_model("all-MiniLM-L6-v2").folder)
    config = AutoConfig.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(titles, truncation=True, max_length=256)
    lengths = np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.float64)
    width, wide = config.hidden_size, config.intermediate_size
    per_token = 4 * width * width + 2 * width * wide
    attention = 2 * width * (lengths**2).sum()
    return float(2 * config.num_hidden_layers * (per_token * lengths.sum() + attention))


if __name__ == "__main__":
    main()

"""Time to score 100 candidates for one user: the exported programs against the eager model.

    python -m benchmarks.serve [--model NAME] [--candidates N] [--requests N] [--rounds N]

The model has the tables of MicroLens_1M_x1 (91,717 items of the sample dataset, with random title
and cover vectors of 384 and 512 dimensions), and is trained for one short epoch. Each side is a
process of its own with one thread. `cold_start` is from the start of the process to its first
answer, in seconds. Then come the requests: the history of a user of the dataset, and random
candidates. The programs for candidates (`mmctr export --compile`, which needs a C++ compiler) run
with torch alone, compiled and as they are; the eager side is `Scorer.score`. `ours`, `program` and
`peer` are the medians of compiled program, program and eager model, `p99` and so on the 99th
percentiles, in milliseconds. `mflop` are the operations of a request's matrix products, in
millions. If the sides' probabilities differ by more than 1e-5, the benchmark
fails; `largest_difference` says by how much they do.
"""

import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    alternate,
    command_line,
    final_line,
    medians,
    peak_memory_mb,
    report,
)

N_TRAIN_ROWS, N_VALID_ROWS = 50_000, 4_000
TOLERANCE = 1e-5
STARTED = "BENCHMARK_STARTED"
"""Variable with the time at which a side's process was started."""

_TEXT_DIM, _IMAGE_DIM = 384, 512
_WARM_UP = 20


def prepare(chosen: Namespace) -> dict[str, float]:
    """Train the model, write its storage folder and its export, and draw the requests."""
    import torch

    from benchmarks.samples import read_sample, write_full_tables
    from mmctr_pipeline import Scorer
    from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
    from mmctr_pipeline.pipeline import train
    from mmctr_pipeline.presets.preset import load_preset
    from mmctr_pipeline.registry.champion import succeed
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.registry.versions import write_version
    from mmctr_pipeline.serving.export import export

    write_full_tables(chosen.folder / "data", N_TRAIN_ROWS, N_VALID_ROWS)
    dataset, given = read_sample(chosen.folder / "data")
    generator = np.random.default_rng(1)

    def random_table(dim: int) -> VectorTable:
        ids = dataset.items.ids
        vectors = generator.standard_normal((len(ids), dim), np.float32)
        return VectorTable(ids, vectors, np.ones(len(ids), bool), f"random, {dim} dimensions")

    vectors = ItemVectors(given.fused, random_table(_TEXT_DIM), random_table(_IMAGE_DIM))
    preset, storage = load_preset(chosen.model), chosen.folder / "storage"
    # All sides compute in float32, the format of the programs.
    training = {**preset.training.to_mapping(), "max_epochs": 1, "precision": "float32"}
    settings = type(preset.training).from_mapping(training, section="training")
    trained = train(dataset, vectors, preset.model, settings, torch.device("cpu"))
    model = ModelFile.from_trained(
        trained, vectors, data_fingerprint="benchmark", resolved_config={}, run_key="benchmark"
    )
    version = write_version(storage, model).name
    succeed(storage, None, version, "the only one").write(storage)
    (storage / "train_dataset").mkdir()
    dataset.write(storage / "train_dataset")
    names = {"fused": "fused_pca", "text": "text_embeddings", "image": "image_embeddings"}
    for name, table in vectors.tables.items():
        table.write(storage / f"{names[name]}.parquet")
    scorer = Scorer.load(storage, "cpu")
    start = time.perf_counter()
    export(scorer, chosen.folder / "exported", compile=True)
    seconds = time.perf_counter() - start
    lengths = []
    requests = []
    for number in range(chosen.requests + _WARM_UP):
        history = dataset.histories[int(dataset.valid.history[number % len(dataset.valid)])]
        past = dataset.items.id_map.ids_at(history).tolist()
        candidates = generator.choice(dataset.items.ids, chosen.candidates, False).tolist()
        lengths.append(min(len(past), scorer.max_history or len(past)))
        requests.append({"candidates": candidates, "history": past})
    (chosen.folder / "requests.json").write_text(json.dumps(requests))
    rows = [_rows(scorer, request) for request in requests]
    (chosen.folder / "rows.json").write_text(json.dumps(rows))
    mflop = _mflop(scorer, list(_inputs(chosen)))
    return {
        "mean_history": float(np.mean(lengths)),
        "mflop": float(np.median(mflop)),
        "p99_mflop": float(np.percentile(mflop, 99)),
        "export_seconds": seconds,
    }


def _rows(scorer: Any, request: dict[str, list[int]]) -> dict[str, Any]:
    """Return the programs' inputs for a request; a service would look the rows up."""
    item = scorer.items.rows(request["candidates"], {})
    most = scorer.max_history or len(request["history"])
    likes, views = scorer.items.levels_2R[:, item]
    return {
        "user": int(scorer.users.unknown),
        "item": item.tolist(),
        "likes_level": likes.tolist(),
        "views_level": views.tolist(),
        "history": scorer.items.rows(request["history"][-most:], {}).tolist(),
    }


def _mflop(scorer: Any, requests: list[dict[str, Any]]) -> list[float]:
    """Return the operations of the matrix products of each request, in millions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmctr_pipeline.serving.programs import CandidateProgram

    program, tables = CandidateProgram(scorer.module, scorer.calibration), scorer.items.tables()
    counted = []
    with torch.no_grad():
        for inputs in requests:
            with FlopCounterMode(display=False) as counter:
                program(**inputs, tables=tables)
            counted.append(counter.get_total_flops() / 1e6)
    return counted


def _inputs(chosen: Namespace) -> Iterator[dict[str, Any]]:
    """Yield the programs' inputs, without the tables, for each request."""
    import torch

    for rows in json.loads((chosen.folder / "rows.json").read_text()):
        yield {name: torch.tensor(values, dtype=torch.int64) for name, values in rows.items()}


def compiled(chosen: Namespace) -> dict[str, float]:
    """Answer the requests with the compiled program."""
    start = time.perf_counter()
    import torch
    from torch._C._aoti import AOTIModelPackageLoader

    import_torch = time.perf_counter() - start
    torch.set_num_threads(1)
    exported = chosen.folder / "exported"
    model = AOTIModelPackageLoader(str(exported / "compiled.pt2"), "model", False, 1, -1)
    tables = torch.load(exported / "items.pt", weights_only=True, mmap=True)
    inputs = ([*each.values(), *tables.values()] for each in _inputs(chosen))
    answered = _answered(chosen, (lambda each=each: model.boxed_run(each)[0] for each in inputs))
    return {**answered, "import_torch": import_torch}


def program(chosen: Namespace) -> dict[str, float]:
    """Answer the requests with the exported program, as it is."""
    import torch

    torch.set_num_threads(1)
    exported = chosen.folder / "exported"
    model = torch.export.load(exported / "candidates.pt2").module()
    tables = torch.load(exported / "items.pt", weights_only=True, mmap=True)
    inputs = _inputs(chosen)
    with torch.inference_mode():
        return _answered(
            chosen, (lambda each=each: model(**each, tables=tables) for each in inputs)
        )


def eager(chosen: Namespace) -> dict[str, float]:
    """Answer the requests with the scorer."""
    import torch

    from mmctr_pipeline import Scorer

    torch.set_num_threads(1)
    scorer = Scorer.load(chosen.folder / "storage", "cpu")
    requests = json.loads((chosen.folder / "requests.json").read_text())
    return _answered(
        chosen,
        (lambda each=each: scorer.score(each["candidates"], each["history"]) for each in requests),
    )


def _answered(chosen: Namespace, calls: Iterable[Callable[[], Any]]) -> dict[str, float]:
    """Make the calls one after the other, and return their times in milliseconds."""
    answers, milliseconds = [], []
    for call in calls:
        start = time.perf_counter()
        answers.append(np.asarray(call()))
        milliseconds.append(1000 * (time.perf_counter() - start))
        if len(answers) == 1:
            cold_start = time.time() - float(os.environ[STARTED])
    np.save(chosen.folder / f"{chosen.side}.npy", np.stack(answers))
    timed = milliseconds[_WARM_UP:]
    return {
        "cold_start": cold_start,
        "p50": float(np.percentile(timed, 50)),
        "p99": float(np.percentile(timed, 99)),
        "peak_mb": peak_memory_mb(),
    }


SIDES = {"compiled": compiled, "program": program, "eager": eager}


def main() -> int:
    """Run the benchmark, or one side of it."""
    parser = command_line(__doc__, [*SIDES, "prepare"], rounds=3)
    parser.add_argument("--model", default="similarity_attention", help="preset")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.side:
        side = prepare if chosen.side == "prepare" else SIDES[chosen.side]
        print(json.dumps(side(chosen)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        module = "benchmarks.serve"
        arguments = [f"--folder={scratch}", f"--model={chosen.model}"]
        arguments += [f"--candidates={chosen.candidates}", f"--requests={chosen.requests}"]
        (prepared,) = alternate(module, ["prepare"], 1, arguments)["prepare"]
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(chosen.rounds):
            for side in SIDES:
                started = {side: {STARTED: str(time.time())}}
                rounds[side] += alternate(module, [side], 1, arguments, started)[side]
        ours, as_is, peer = (medians(rounds[side]) for side in SIDES)
        answers = [np.load(Path(scratch) / f"{side}.npy") for side in SIDES]
    difference = float(np.ptp(answers, axis=0).max())
    final_line(
        name="serve",
        ours=ours["p50"],
        program=as_is["p50"],
        peer=peer["p50"],
        ratio=peer["p50"] / ours["p50"],
        unit="ms",
        model=chosen.model,
        candidates=chosen.candidates,
        p99=ours["p99"],
        program_p99=as_is["p99"],
        peer_p99=peer["p99"],
        cold_start=ours["cold_start"],
        import_torch=ours["import_torch"],
        program_cold_start=as_is["cold_start"],
        peer_cold_start=peer["cold_start"],
        peak_mb=ours["peak_mb"],
        program_peak_mb=as_is["peak_mb"],
        peer_peak_mb=peer["peak_mb"],
        largest_difference=difference,
        **prepared,
    )
    is_equal = difference <= TOLERANCE
    return report([] if is_equal else [f"the probabilities differ by {difference:.2g}"])


if __name__ == "__main__":
    sys.exit(main())

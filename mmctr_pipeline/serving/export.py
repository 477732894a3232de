"""Export a model as programs that need torch alone, with their tables and schema."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch._dynamo.exc import UserError
from torch.export import ExportedProgram

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.files.parquet import write_parquet
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, known_rows
from mmctr_pipeline.serving.compiled import compiled, require_compiler
from mmctr_pipeline.serving.errors import ScorerError, first_line
from mmctr_pipeline.serving.export_schema import export_schema
from mmctr_pipeline.serving.programs import (
    CANDIDATES,
    COMPILED,
    ROWS,
    TABLES,
    CandidateProgram,
    RowProgram,
    traced,
)
from mmctr_pipeline.serving.scorer import Scorer
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.score import score

logger = logging.getLogger(__name__)

SCHEMA = "schema.json"
ITEMS, USERS, EMBEDDINGS = "items.parquet", "users.parquet", "item_embeddings.parquet"

TOLERANCE = 1e-5
"""Largest difference of a probability between program and pipeline, both in float32."""

_COMPARED_ROWS = 1024
_COMPARED_USERS, _COMPARED_CANDIDATES = 16, 64


def export(scorer: Scorer, folder: Path, compile: bool = False) -> dict[str, Any]:
    """Write a scorer's model as a folder that a process with torch alone can score with.

    The folder has a program for rows (`model.pt2`) and one for the candidates of one user
    (`candidates.pt2`), if asked for also compiled (`compiled.pt2`), the tables that they read
    (`items.pt`), the rows of items and users (`items.parquet`, `users.parquet`), the learned item
    embeddings if there are any (`item_embeddings.parquet`), and `schema.json`: a JSON schema of the
    programs' inputs, with how much their probabilities differ from the pipeline's. It appears when
    it is complete.

    Returns the schema. Raises `ScorerError` if the model cannot be exported or compiled, or if a
    program gives other probabilities than the pipeline in float32.

    Parameters
    ----------
    scorer
        The model, on the CPU.
    folder
        The folder to write; an earlier export is replaced.
    compile
        Whether to compile the program for candidates to machine code, with the C++ compiler.
    """
    if scorer.device.type != "cpu":
        raise ScorerError("a model is exported from the CPU. Fix: load it with device='cpu'")
    name = scorer.model.model_config["name"]
    tables, folder = scorer.items.tables(), folder.resolve()
    _require_writable(folder)
    if compile:
        require_compiler()
    logger.info(f"{name}: tracing, which takes up to a minute")
    exported = _traced(scorer, tables)
    programs: dict[str, Callable[..., torch.Tensor]] = {
        file: program.module() for file, program in exported.items()
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        path = Path(temporary) / folder.name
        path.mkdir()
        for file, program in exported.items():
            torch.export.save(program, path / file)
        if compile:
            logger.info(f"{name}: compiling, which takes up to a minute")
            programs[COMPILED] = compiled(exported[CANDIDATES], tables, path / COMPILED)
        differences = _differences(scorer, programs, tables)
        if not differences["float32"] <= TOLERANCE:
            raise ScorerError(
                f"a program differs from {name} by {differences['float32']:.2g} in a probability, "
                f"more than {TOLERANCE}: nothing was written"
            )
        torch.save(tables, path / TABLES)
        for table, file in _parquet_tables(scorer):
            write_parquet(table, path / file)
        schema = export_schema(scorer, differences)
        (path / SCHEMA).write_text(json.dumps(schema, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        path.rename(folder)
    return schema


def _require_writable(folder: Path) -> None:
    """Create the parent folder; refuse a folder that holds anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ScorerError(f"{folder} is a file. Fix: name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and any(folder.iterdir()) and not (folder / SCHEMA).is_file():
        raise ScorerError(
            f"{folder} is not empty and is not an earlier export. Fix: name a new folder"
        )


def _traced(scorer: Scorer, tables: dict[str, torch.Tensor]) -> dict[str, ExportedProgram]:
    """Trace the programs; returns them by file name."""
    programs = {ROWS: RowProgram, CANDIDATES: CandidateProgram}
    try:
        return {
            file: traced(program(scorer.module, scorer.calibration), tables)
            for file, program in programs.items()
        }
    except (RuntimeError, UserError) as error:
        name = scorer.model.model_config["name"]
        raise ScorerError(f"{name} cannot be exported: {first_line(error)}") from error


def _differences(
    scorer: Scorer, programs: dict[str, Callable[..., torch.Tensor]], tables: dict[str, Any]
) -> dict[str, float]:
    """Return the largest difference to the pipeline's probabilities, by its number format."""
    differences = {"float32": 0.0, "bfloat16": 0.0}
    for is_of_rows in (True, False):
        source, n_rows = _rows(scorer) if is_of_rows else _candidates(scorer)
        batches = list(source.in_order(n_rows))
        expected = {
            name: score(scorer.module, source, name, calibration=scorer.calibration)
            for name in differences
        }
        for file, program in programs.items():
            if (file == ROWS) != is_of_rows:
                continue
            with torch.no_grad():
                found = [program(**_inputs(file, batch), tables=tables) for batch in batches]
            for name, expected_N in expected.items():
                difference = np.abs(torch.cat(found).numpy() - expected_N).max()
                differences[name] = float(np.maximum(differences[name], difference))  # keeps NaN
    return differences


def _rows(scorer: Scorer) -> tuple[BatchSource, int]:
    """Return the first rows of the test split, and the size of a batch."""
    test, histories = scorer.dataset.test, scorer.dataset.histories
    rows = test.take(np.arange(min(_COMPARED_ROWS, len(test))))
    return _source(scorer, rows, histories), _COMPARED_ROWS


def _candidates(scorer: Scorer) -> tuple[BatchSource, int]:
    """Return rows of a few users with the same candidates, and the number of these.

    Users and candidates are those of the first test rows. The last row is the only candidate of a
    user without a history.
    """
    test, n_users, n_candidates = scorer.dataset.test, _COMPARED_USERS, _COMPARED_CANDIDATES
    rows_N = np.arange(n_users * n_candidates + 1)
    users = test.take(rows_N // n_candidates % len(test))
    items = test.take(rows_N % n_candidates % len(test))
    offsets = scorer.dataset.histories.offsets
    histories = Ragged(scorer.dataset.histories.values, np.append(offsets, offsets[-1]))
    users.history[-1] = len(histories) - 1
    rows = dataclasses.replace(items, user_id=users.user_id, history=users.history)
    return _source(scorer, rows, histories), n_candidates


def _source(scorer: Scorer, rows: Split, histories: Ragged) -> BatchSource:
    return BatchSource(rows, histories, scorer.items.features, scorer.device, scorer.max_history)


def _inputs(file: str, batch: Batch) -> dict[str, torch.Tensor]:
    """Return a program's inputs for a batch, without the tables."""
    columns = {
        "item": batch.item_id_B,
        "likes_level": batch.likes_level_B,
        "views_level": batch.views_level_B,
    }
    if file == ROWS:
        ragged = {"history": batch.history_T, "offsets": batch.history_offsets}
        return {**columns, **ragged, "user": batch.user_id_B}
    history = batch.history_T[: batch.history_offsets[1]]
    return {**columns, "user": batch.user_id_B[0], "history": history}


def _parquet_tables(scorer: Scorer) -> Iterator[tuple[pa.Table, str]]:
    """Yield the rows of items and users, and the learned item embeddings, with their file names."""
    items, rows = scorer.dataset.items, scorer.items.row_of_item
    likes, views = scorer.items.levels_2R[:, rows]
    yield (
        pa.table({"item_id": items.ids, "row": rows, "likes_level": likes, "views_level": views}),
        ITEMS,
    )
    ids, user_rows = scorer.users.known()
    yield pa.table({"user_id": ids, "row": user_rows}), USERS
    embeddings = {
        name: table.weight.detach()[known_rows(torch.from_numpy(rows), table.num_embeddings)]
        for name, table in scorer.module.named_modules()
        if isinstance(table, EmbeddingTable) and table.rows_of == "items"
    }
    if embeddings:
        columns = {
            name: pa.FixedSizeListArray.from_arrays(vectors.numpy().ravel(), vectors.shape[1])
            for name, vectors in embeddings.items()
        }
        yield pa.table({"item_id": items.ids, **columns}), EMBEDDINGS

"""Export a model as a program that needs torch alone, with the tables and the schema it needs."""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from mmctr_pipeline.calibration import CalibrationMap
from mmctr_pipeline.data.schemas import MAX_LEVEL
from mmctr_pipeline.files.parquet import write_parquet
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, ItemFeatures
from mmctr_pipeline.models.layers.embedding import EmbeddingTable, known_rows
from mmctr_pipeline.serving.errors import ScorerError
from mmctr_pipeline.serving.scorer import Scorer
from mmctr_pipeline.training.batch_source import BatchSource
from mmctr_pipeline.training.score import score

logger = logging.getLogger(__name__)

PROGRAM, TABLES, SCHEMA = "model.pt2", "items.pt", "schema.json"
ITEMS, USERS, EMBEDDINGS = "items.parquet", "users.parquet", "item_embeddings.parquet"

TOLERANCE = 1e-5
"""Largest difference of a probability between program and pipeline, both in float32."""

_TRACED_ROWS, _COMPARED_ROWS = 8, 1024
_COLUMNS = ("user", "item", "likes_level", "views_level")


class ScoringProgram(nn.Module):
    """The module to export: it computes click probabilities of B rows.

    A row of padding and a spare position are added, so that the model never sees a batch of one
    row or without positions, which `torch.export` would treat as cases of their own.
    """

    def __init__(self, module: CtrModel, calibration: CalibrationMap | None) -> None:
        super().__init__()
        self.module, self._calibration = module, calibration

    def forward(
        self,
        user: torch.Tensor,
        item: torch.Tensor,
        likes_level: torch.Tensor,
        views_level: torch.Tensor,
        history: torch.Tensor,
        offsets: torch.Tensor,
        tables: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return `(B,) float32`.

        Takes `(B,) int64` each, the items of all histories one after the other, `(T,) int64`,
        where each history begins, `(B + 1,) int64`, and the fields of `ItemFeatures`.
        """
        batch = Batch(
            user_id_B=_with_zero(user),
            item_id_B=_with_zero(item),
            likes_level_B=_with_zero(likes_level),
            views_level_B=_with_zero(views_level),
            history_T=_with_zero(history),
            history_offsets=torch.cat([offsets, offsets[-1:]]),
            items=ItemFeatures(**tables),
        )
        logits_B = self.module(batch)[:-1]
        if self._calibration is not None:
            logits_B = self._calibration(logits_B)
        return torch.sigmoid(logits_B).float()


def export(scorer: Scorer, folder: Path) -> dict[str, Any]:
    """Write a scorer's model as a folder that a process with torch alone can score with.

    The folder has the program (`model.pt2`), the tables that it reads (`items.pt`), the rows of
    items and users (`items.parquet`, `users.parquet`), the learned item embeddings if there are
    any (`item_embeddings.parquet`), and `schema.json`: a JSON schema of the program's inputs, with
    how much its probabilities differ from the pipeline's. It appears when it is complete.

    Returns the schema. Raises `ScorerError` if the model cannot be exported, or if the program
    gives other probabilities than the pipeline in float32.

    Parameters
    ----------
    scorer
        The model, on the CPU.
    folder
        The folder to write; an earlier export is replaced.
    """
    if scorer.device.type != "cpu":
        raise ScorerError("a model is exported from the CPU. Fix: load it with device='cpu'")
    name = scorer.model.model_config["name"]
    tables = scorer.items.tables()
    _require_writable(folder)
    logger.info(f"{name}: tracing, which takes up to a minute")
    program = _traced(scorer, tables)
    differences = _differences(scorer, program, tables)
    logger.info(f"{name}: largest difference to the pipeline by number format: {differences}")
    if differences["float32"] > TOLERANCE:
        raise ScorerError(
            f"the program differs from {name} by {differences['float32']:.2g} in a probability, "
            f"more than {TOLERANCE}: it was not written"
        )
    schema = _schema(scorer, differences)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        path = Path(temporary) / folder.name
        path.mkdir()
        torch.export.save(program, path / PROGRAM)
        torch.save(tables, path / TABLES)
        for table, file in _parquet_tables(scorer):
            write_parquet(table, path / file)
        (path / SCHEMA).write_text(json.dumps(schema, indent=2) + "\n")
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        path.rename(folder)
    return schema


def _with_zero(values: torch.Tensor) -> torch.Tensor:
    return torch.cat([values, values.new_zeros(1)])


def _require_writable(folder: Path) -> None:
    """Create the parent folder; refuse a folder that holds anything but an earlier export."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and any(folder.iterdir()) and not (folder / SCHEMA).is_file():
        raise ScorerError(f"{folder} is not empty and no earlier export. Fix: name a new folder")


def _traced(scorer: Scorer, tables: dict[str, torch.Tensor]) -> ExportedProgram:
    """Trace the program with symbolic numbers of rows and positions, and of items if possible."""
    program = ScoringProgram(scorer.module, scorer.calibration).eval().requires_grad_(False)
    (example,) = _batches(scorer, _TRACED_ROWS)
    row, position = Dim("rows", min=1), Dim("positions")
    shapes = {
        **{name: {0: row} for name in _COLUMNS},
        "history": {0: position},
        "offsets": {0: row + 1},
        "tables": {name: {0: Dim.AUTO} for name in tables},
    }
    inputs = _inputs(example)
    try:
        with torch.no_grad():
            program(**inputs, tables=tables)  # models compute some means at the first call
            return torch.export.export(
                program, (), {**inputs, "tables": tables}, dynamic_shapes=shapes, strict=False
            )
    except (RuntimeError, UserError) as error:
        name, reason = scorer.model.model_config["name"], str(error).splitlines()[0]
        raise ScorerError(f"{name} cannot be exported: {reason}") from error


def _differences(
    scorer: Scorer, program: ExportedProgram, tables: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return the largest difference to the pipeline's probabilities, by its number format."""
    call = program.module()
    with torch.no_grad():
        found_N = np.concatenate(
            [
                call(**_inputs(batch), tables=tables).numpy()
                for batch in _batches(scorer, _COMPARED_ROWS)
            ]
        )
    source = _source(scorer, _COMPARED_ROWS)
    differences = {}
    for number_format in ("float32", "bfloat16"):
        expected_N = score(scorer.module, source, number_format, calibration=scorer.calibration)
        differences[number_format] = float(np.abs(found_N - expected_N).max())
    return differences


def _source(scorer: Scorer, n_rows: int) -> BatchSource:
    """Return the first rows of the test split."""
    rows = scorer.dataset.test.take(np.arange(min(n_rows, len(scorer.dataset.test))))
    return BatchSource(
        rows, scorer.dataset.histories, scorer.items.features, scorer.device, scorer.max_history
    )


def _batches(scorer: Scorer, n_rows: int) -> Iterator[Batch]:
    return _source(scorer, n_rows).in_order(_COMPARED_ROWS, share=False)


def _inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Return the program's inputs for a batch, without the tables."""
    return {
        "user": batch.user_id_B,
        "item": batch.item_id_B,
        "likes_level": batch.likes_level_B,
        "views_level": batch.views_level_B,
        "history": batch.history_T,
        "offsets": batch.history_offsets,
    }


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


def _schema(scorer: Scorer, differences: dict[str, float]) -> dict[str, Any]:
    """Return a JSON schema of the program's inputs; `mmctr` has what a client must know besides."""
    n_users, unknown = scorer.users.unknown, scorer.items.unknown
    model, most = scorer.model, scorer.max_history
    newest = "all items" if most is None else f"the newest {most} items"

    def integers(most: int, description: str) -> dict[str, Any]:
        number = {"type": "integer", "minimum": 0, "maximum": most}
        return {"type": "array", "items": number, "description": description}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Rows to score with {model.model_config['name']}: int64 tensors",
        "type": "object",
        "required": [*_COLUMNS, "history", "offsets"],
        "properties": {
            "user": integers(n_users, f"(B,) rows of users; {n_users} for an unknown user"),
            "item": integers(unknown, f"(B,) rows of items; {unknown} for an unknown item"),
            "likes_level": integers(MAX_LEVEL, "(B,) levels of the items"),
            "views_level": integers(MAX_LEVEL, "(B,) levels of the items"),
            "history": integers(
                unknown,
                "(T,) rows of the items of all histories, one history after the other, each "
                f"oldest first, of each {newest}",
            ),
            "offsets": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 2,
                "description": "(B + 1,) where each history begins, and the last one ends",
            },
        },
        "mmctr": {
            "output": "(B,) float32 click probabilities",
            "tables": f"the last input, as torch.load reads it from {TABLES}",
            "max_history": most,
            "model": model.model_config["name"],
            "created_at": model.created_at,
            "data_fingerprint": model.data_fingerprint,
            "libraries": dict(model.library_versions),
            "largest_difference_to_pipeline": differences,
            "compared_rows": min(_COMPARED_ROWS, len(scorer.dataset.test)),
        },
    }

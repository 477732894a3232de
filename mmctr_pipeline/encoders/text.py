"""Item titles become vectors: Sentence-BERT over the distinct titles, in batches of like length."""

import hashlib
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.progress import Progress
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.given import take_given
from mmctr_pipeline.encoders.locate import LocatedTextModel, locate_text_model


def encode_titles(
    items: ItemTable,
    config: TextEncoderConfig,
    device: torch.device | str,
    log: Callable[[str], None],
    given: VectorTable | None = None,
) -> VectorTable:
    """Return one float32 vector per item, in the order of `items` (ids ascending).

    A title that is null, empty or blank has no vector: zeros, `present` False. Bytes that are not
    UTF-8 (lone surrogates among them) become U+FFFD and are counted. Equal titles are encoded
    once. The vectors are those of `SentenceTransformer.encode` up to float32 rounding, as a
    batch's padding decides on the order of summation. Raises `ModelNotFoundError`.
    """
    if config.source == "given":
        return take_given(items.item_id, given, config.column, log)
    start = time.monotonic()
    titles, n_repaired = read_titles(items.title)
    present = np.array([bool(title.strip()) for title in titles], dtype=bool)
    distinct: dict[str, int] = {}
    row_of_item = np.array(
        [distinct.setdefault(titles[row], len(distinct)) for row in np.flatnonzero(present)],
        dtype=np.int64,
    )
    located = locate_text_model(config.model)
    log(f"text encoder {located.name} from {located.source}, on {device}")
    model = load_text_model(located, device)
    encoded = _encode(model, list(distinct), config.batch_size, log)
    vectors = np.zeros((len(items), encoded.shape[1]), dtype=np.float32)
    vectors[present] = encoded[row_of_item]
    n_present = int(present.sum())
    return VectorTable(
        item_id=items.item_id,
        vectors=vectors,
        present=present,
        identity=text_identity(located, model),
        provenance={
            "encoder": "sentence_transformers",
            "config": config.to_mapping(),
            "model_source": located.source,
            "weights_sha256": located.weights_hash,
            "device": str(device),
            "counts": {
                "items": len(items),
                "encoded": len(distinct),
                "duplicates": n_present - len(distinct),
                "missing": len(items) - n_present,
                "repaired": n_repaired,
            },
            "seconds": round(time.monotonic() - start, 3),
        },
    )


def read_titles(column: pa.Array) -> tuple[list[str], int]:
    """Return the titles as Python strings (a null as "") and how many had to be repaired.

    Parquet does not check that text is UTF-8; what is not becomes U+FFFD, which the tokeniser
    leaves out.
    """
    titles, n_repaired = [], 0
    for raw in column.cast(pa.large_binary()).to_pylist():
        try:
            titles.append("" if raw is None else raw.decode("utf-8"))
        except UnicodeDecodeError:
            titles.append(raw.decode("utf-8", errors="replace"))
            n_repaired += 1
    return titles, n_repaired


def load_text_model(located: LocatedTextModel, device: torch.device | str) -> SentenceTransformer:
    """Load a located model without touching the network, in float32."""
    return SentenceTransformer(
        str(located.folder),
        device=str(device),
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    ).eval()


def text_identity(located: LocatedTextModel, model: SentenceTransformer) -> str:
    """Return what makes the vectors: name, weights, tokens and pooling, number format."""
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else ""
    settings = f"{located.preprocessing_hash} {model.max_seq_length} {prompt}"
    preprocessing = hashlib.sha256(settings.encode()).hexdigest()[:8]
    weights = located.weights_hash[:12]
    return f"sentence_transformers:{located.name}:{weights}:{preprocessing}:float32"


def _encode(
    model: SentenceTransformer, titles: list[str], batch_size: int, log: Callable[[str], None]
) -> np.ndarray:
    """Return `(len(titles), D) float32` in the order of `titles`."""
    vectors = np.zeros((len(titles), model.get_embedding_dimension() or 1), dtype=np.float32)
    # Titles of like length share a batch, so that little is padded.
    order = np.argsort([-len(title) for title in titles], kind="stable")
    batches = [order[begin : begin + batch_size] for begin in range(0, len(titles), batch_size)]
    progress = Progress(log, "encoding", len(titles), "titles")
    start = time.monotonic()
    with torch.inference_mode():
        for rows in _longest_then_mixed(batches):
            vectors[rows] = model.encode(
                [titles[row] for row in rows], batch_size=len(rows), show_progress_bar=False
            )
            progress.advance(len(rows))
    seconds = max(time.monotonic() - start, 1e-9)
    rate = len(titles) / seconds
    log(f"encoded {len(titles):,} distinct titles in {seconds:.1f} s, {rate:,.0f} titles/s")
    return vectors


def _longest_then_mixed(batches: list[np.ndarray]) -> list[np.ndarray]:
    """Return the batches in another order: the first, of the longest titles, then at random.

    What does not fit into memory so fails at once, and the rate of the batches done foretells the
    rest. The order does not touch the vectors.
    """
    mixed = 1 + np.random.default_rng(0).permutation(max(len(batches) - 1, 0))
    return [batches[number] for number in ([0, *mixed] if batches else [])]

"""Item titles become vectors, of which only those not yet in the vector store are encoded."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.given import take_given
from mmctr_pipeline.encoders.parity import parity, parity_notes, parity_rows
from mmctr_pipeline.encoders.sources import locate_image_model, locate_text_model
from mmctr_pipeline.encoders.store.vector_store import Shard, VectorStore
from mmctr_pipeline.encoders.text.models import ClipTextModel, SentenceModel, TextModel
from mmctr_pipeline.encoders.text.titles import item_texts, read_tag_names
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.precision import dtype_for, dtype_name

logger = logging.getLogger(__name__)

# Enough for batches of like length, and some ten seconds' work to lose at most.
SHARD_TEXTS = 4096

_PARITY_TEXTS = 8
_LENGTH_SAMPLE = 2048


@dataclasses.dataclass(frozen=True)
class TextEncoding:
    """The vectors, and for a picture of the titles their lengths.

    `n_tokens` holds the tokens of at most 2,048 titles, drawn by a fixed seed, before anything is
    cut off; `longest` is what the model takes. Both are None for given vectors.
    """

    table: VectorTable
    n_tokens: np.ndarray | None = None
    longest: int | None = None


def encode_titles(
    items: ItemTable,
    config: TextEncoderConfig,
    device: torch.device | str,
    store: VectorStore,
    given: VectorTable | None = None,
) -> TextEncoding:
    """Return one float32 vector per item, in the order of `items` (ids ascending).

    What is encoded is the template, filled in; an item for which that is blank has no vector:
    zeros, `present` False. Equal texts are encoded once, and what `store` remembers not at all.
    The provenance counts both and what was odd about the titles (`item_texts`), and says how close
    bfloat16 came to the library's own float32 (`parity`, a cosine, over a few texts of each
    shard). Raises `ModelNotFoundError`, `TemplateError`, `DataError`.
    """
    if config.source == "given":
        return TextEncoding(take_given(items.item_id, given, config.column))
    keep_freed_memory()
    start = time.monotonic()
    tag_names = read_tag_names(Path(config.tag_names).expanduser()) if config.tag_names else None
    rendered = item_texts(items, config.template, tag_names)
    present = np.array([bool(text) for text in rendered.texts], dtype=bool)
    texts = [text for text in rendered.texts if text]
    model = _NamedModel(config, device)
    logger.info(f"text encoder {model.name} from {model.source}, {model.precision} on {device}")

    def encode_shard(rows: np.ndarray) -> Shard:
        shard = [texts[row] for row in rows]
        vectors = model.opened.encode(shard, model.batch_tokens)
        if model.dtype == torch.float32:
            return Shard(vectors)
        twice = parity_rows(len(shard), _PARITY_TEXTS)
        plain = model.opened.encode_plainly([shard[row] for row in twice])
        return Shard(vectors, notes=dict(parity_notes(vectors[twice], plain)))

    remembered = store.get_or_encode(
        model.identity,
        [hashlib.sha256(text.encode()).digest() for text in texts],
        encode_shard,
        shard_size=SHARD_TEXTS,
        reader="",
        unit="titles",
    )
    vectors = np.zeros((len(items), model.opened.dim), dtype=np.float32)
    if texts:
        vectors[present] = remembered.vectors
    else:
        logger.warning(
            f"not one of {len(items):,} items has a text: look at item_title in item_feature"
        )
    n_tokens, n_cut = _lengths(texts, model)
    table = VectorTable(
        item_id=items.item_id,
        vectors=vectors,
        present=present,
        identity=model.identity + _template_mark(config.template, tag_names),
        provenance={
            "encoder": config.source,
            "config": config.to_mapping(),
            "model_source": model.source,
            "weights_sha256": model.weights_hash,
            "device": str(device),
            "precision": model.precision,
            "parity": parity(remembered.notes),
            "counts": {
                "items": len(items),
                "encoded": remembered.n_encoded,
                "reused": remembered.n_reused,
                "duplicates": len(texts) - remembered.n_encoded - remembered.n_reused,
                **rendered.counts,
                "cut_off": n_cut,
            },
            "seconds": round(time.monotonic() - start, 3),
        },
    )
    return TextEncoding(table, n_tokens, model.opened.longest)


class _NamedModel:
    """The model that a configuration names, opened, with what makes its vectors what they are."""

    def __init__(self, config: TextEncoderConfig, device: torch.device | str) -> None:
        self.dtype = dtype_for(config.precision, device)
        self.precision = dtype_name(self.dtype)
        on_cpu = torch.device(device).type == "cpu"
        self.batch_tokens = config.batch_tokens or (1024 if on_cpu else 65536)
        if config.source == "open_clip":
            # open_clip takes seconds to import, and only those who ask for it wait.
            from mmctr_pipeline.encoders.clip import load_clip

            clip = load_clip(locate_image_model(config.model), device)
            self.opened: TextModel = ClipTextModel(clip.model, clip.tokenizer(), device, self.dtype)
            self.name, self.source = clip.located.name, clip.located.source
            self.weights_hash = clip.text_weights_hash()
            kind, settings = "open_clip_text", clip.text_settings_hash()
        else:
            located = locate_text_model(config.model)
            self.opened = SentenceModel(located, device, self.dtype)
            self.name, self.source = located.name, located.source
            self.weights_hash = located.weights_hash
            kind, settings = "sentence_transformers", located.settings_hash[:8]
        self.identity = f"{kind}:{self.name}:{self.weights_hash[:12]}:{settings}:{self.precision}"


def _template_mark(template: str, tag_names: Mapping[int, str] | None) -> str:
    """Return what tells vectors of another template or other tag names apart from those of titles.

    The store needs none, as it goes by the filled-in texts; a fitted transform does.
    """
    if template == "{title}":
        return ""
    settings = json.dumps([template, sorted((tag_names or {}).items())])
    return f":{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _lengths(texts: list[str], model: _NamedModel) -> tuple[np.ndarray, int]:
    """Return the tokens of a sample of the texts, and how many of all texts are cut off."""
    longest = model.opened.longest
    # A token is a byte at least, so that shorter texts need no counting.
    long = [text for text in texts if len(text.encode()) > longest - 2]
    n_cut = int((model.opened.token_counts(long) > longest).sum()) if long else 0
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(texts))[:_LENGTH_SAMPLE]
    return model.opened.token_counts([texts[row] for row in rows]), n_cut

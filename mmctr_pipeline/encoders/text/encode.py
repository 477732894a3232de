"""Encode item titles that the vector store does not hold yet."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.data.dataset import ItemTable
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.encoders.config import TextEncoderConfig
from mmctr_pipeline.encoders.locate import locate_image_model, locate_text_model
from mmctr_pipeline.encoders.on_ray import ray_encoders
from mmctr_pipeline.encoders.own import OwnEncoder
from mmctr_pipeline.encoders.store.vector_store import Shard, VectorStore
from mmctr_pipeline.encoders.text.models import (
    ClipTextModel,
    OwnTextModel,
    SentenceModel,
    TextModel,
)
from mmctr_pipeline.encoders.text.titles import item_texts, read_tag_names
from mmctr_pipeline.encoders.vector_tables import (
    EncoderInfo,
    encoded_table,
    given_table,
    parity_notes,
    parity_rows,
)
from mmctr_pipeline.files.progress import Advance
from mmctr_pipeline.memory import keep_freed_memory
from mmctr_pipeline.plugins import is_plugin
from mmctr_pipeline.precision import dtype_for, dtype_name

logger = logging.getLogger(__name__)

# Enough texts for batches of similar length, and about ten seconds of work. An interrupted run
# loses at most this much.
SHARD_TEXTS = 4096

_PARITY_TEXTS = 8
_LENGTH_SAMPLE = 2048
# The provenance quotes this many texts of unknown words, cut to this many characters.
_MAX_EXAMPLES, _MAX_CHARACTERS = 5, 60


@dataclasses.dataclass(frozen=True)
class TextEncoding:
    """The vectors, and the lengths of the titles for a plot.

    `n_tokens` holds the token counts, before truncation, of at most 2,048 titles drawn with a fixed
    seed; `longest` is the model's limit in tokens. Both are None for given vectors.
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

    The text of an item is the filled-in template. An item gets zeros and `present` False if its
    text is blank, if the tokeniser knows none of its words (all such texts of one length would
    share a vector), or if its vector is an outlier. Equal texts are encoded once. The provenance
    counts unusual titles (see `ItemTexts`), texts of unknown words, duplicates and truncated
    texts. Its `parity` says how close bfloat16 came to the library's float32: the cosine over a
    few texts of each shard. Raises `ModelNotFoundError`, `ModelFilesError`, `TemplateError`,
    `DataError`; with `compute: ray` also `DeploymentError`, `OtherEncoderError` and
    `RayEncodingError`.

    Parameters
    ----------
    items
        The items, with titles and tags.
    config
        Model, text template and precision.
    device
        Where the model runs.
    store
        Encodings of earlier runs; new ones are added.
    given
        The vectors to return with `source: given`, aligned to the items.
    """
    if not config.encodes:
        return TextEncoding(given_table(items.ids, given, config.column))
    keep_freed_memory()
    start = time.monotonic()
    tag_names = read_tag_names(Path(config.tag_names).expanduser()) if config.tag_names else None
    rendered = item_texts(items, config.template, tag_names)
    with ray_encoders(open_on_actor, config, device) as on_ray:
        model, encoder = open_text_model(config, "cpu" if on_ray else device)
        here = TextShardEncoder(model, encoder, config.batch_tokens)
        if on_ray:
            encoder = on_ray.info(here.info)
        logger.info(f"text encoder {encoder}")
        rows, unknown = _rows_to_encode(items.ids, rendered.texts, model, encoder.name)
        texts = [rendered.texts[row] for row in rows]
        if not texts:
            logger.warning(f"none of {len(items):,} items has a text. Fix: check item_title")
        result = store.get_or_encode(
            encoder.identity,
            [hashlib.sha256(text.encode()).digest() for text in texts],
            lambda positions, advance: here.encode([texts[row] for row in positions], advance),
            shard_size=SHARD_TEXTS,
            reader="",
            unit="titles",
            encode_together=on_ray.together(encoder, texts) if on_ray else None,
        )
    if not texts:
        result = dataclasses.replace(result, vectors=np.zeros((0, model.dim), np.float32))
    n_tokens, n_cut = _lengths(texts, model)
    n_duplicates = len(texts) - result.n_encoded - result.n_reused
    counts = {
        "duplicates": n_duplicates,
        **rendered.counts,
        "unknown_words": len(unknown),
        "cut_off": n_cut,
    }
    # The store's keys are the filled-in texts, but a fitted transform depends on the template.
    identity = encoder.identity + _template_suffix(config.template, tag_names)
    table = encoded_table(items.ids, rows, result, encoder, config, counts, start)
    table = dataclasses.replace(table, identity=identity)
    table = table.recording(unknown_titles=unknown[:_MAX_EXAMPLES])
    return TextEncoding(table, n_tokens, model.longest)


@dataclasses.dataclass(frozen=True)
class TextShardEncoder:
    """Encodes the texts of one shard, and compares a few of them with float32.

    `batch_tokens` 0 is 1,024 on a CPU and 65,536 on a GPU.
    """

    model: TextModel
    info: EncoderInfo
    batch_tokens: int = 0

    def encode(self, texts: list[str], advance: Advance | None = None) -> Shard:
        """Return the vectors of the texts; `advance` is called as by `SentenceModel.encode`."""
        on_cpu = torch.device(self.info.device).type == "cpu"
        batch_tokens = self.batch_tokens or (1024 if on_cpu else 65536)
        vectors = self.model.encode(texts, batch_tokens, advance)
        if self.info.precision == "float32":
            return Shard(vectors)
        compared = parity_rows(len(texts), _PARITY_TEXTS)
        reference = self.model.encode_by_library([texts[row] for row in compared])
        return Shard(vectors, notes=parity_notes(vectors[compared], reference))


def open_on_actor(settings: Mapping[str, Any], device: str) -> TextShardEncoder:
    """Load the model of a configuration on an actor of a Ray cluster."""
    keep_freed_memory()
    config = TextEncoderConfig.from_mapping(settings)
    return TextShardEncoder(*open_text_model(config, device), config.batch_tokens)


def open_text_model(
    config: TextEncoderConfig, device: torch.device | str
) -> tuple[TextModel, EncoderInfo]:
    """Load the model of a configuration; raises `ModelNotFoundError` and `ModelFilesError`."""
    if is_plugin(config.source):
        own = OwnEncoder(config, device)
        return OwnTextModel(own), own.info
    dtype = dtype_for(config.precision, device)
    model: TextModel
    if config.source == "open_clip":
        # Imported here because it takes seconds, and other models do not need it.
        from mmctr_pipeline.encoders.clip import load_clip

        clip = load_clip(locate_image_model(config.model), device)
        model = ClipTextModel(clip.model, clip.tokenizer(), device, dtype)
        source, hashes = clip.located.source, (clip.text_weights_hash(), clip.text_settings_hash())
        kind, name = "open_clip_text", clip.located.name
    else:
        located = locate_text_model(config.model)
        model = SentenceModel(located, device, dtype)
        source, hashes = located.source, (located.weights_hash, located.settings_hash[:8])
        kind, name = "sentence_transformers", located.name
    return model, EncoderInfo(kind, name, source, *hashes, dtype_name(dtype), str(device))


def _rows_to_encode(
    item_id: np.ndarray, texts: list[str], model: TextModel, name: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the rows of the texts to encode, and id and text of texts of unknown words only."""
    rows = np.flatnonzero([bool(text) for text in texts])
    is_unknown = model.unknown([texts[row] for row in rows])
    unknown = [
        {"item_id": item_id[row].item(), "text": texts[row][:_MAX_CHARACTERS]}
        for row in rows[is_unknown]
    ]
    if unknown:
        logger.warning(
            f"{len(unknown):,} of {len(rows):,} texts are masked, as if the items had none: {name} "
            f"knows no word of them, such as {unknown[0]['text']!r} (item {unknown[0]['item_id']})."
            " Fix: if there are many, set encoders.text.model to a model of their language"
        )
    return rows[~is_unknown], unknown


def _template_suffix(template: str, tag_names: Mapping[int, str] | None) -> str:
    """Return a suffix of the identity that differs between templates and between tag names."""
    if template == "{title}":
        return ""
    settings = json.dumps([template, sorted((tag_names or {}).items())])
    return f":{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _lengths(texts: list[str], model: TextModel) -> tuple[np.ndarray, int]:
    """Return the token counts of a sample of the texts, and how many of all texts are cut off."""
    # A text has at most one token per byte and two special ones, so shorter texts are not cut.
    n_bytes = model.longest - 2 - len(model.prompt.encode())
    long = [text for text in texts if len(text.encode()) > n_bytes]
    n_cut = int((model.token_counts(long) > model.longest).sum()) if long else 0
    rows = np.random.default_rng(0).permutation(len(texts))[:_LENGTH_SAMPLE]
    return model.token_counts([texts[row] for row in rows]), n_cut

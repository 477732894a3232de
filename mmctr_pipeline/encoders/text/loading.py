"""Load sentence-transformers models; an incomplete model is an error."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from mmctr_pipeline.encoders.locate import LocatedTextModel
from mmctr_pipeline.encoders.model_files import (
    VOCABULARIES,
    ModelFilesError,
    require_text_model,
    shortened,
    text_modules,
)
from mmctr_pipeline.encoders.text.tokens import unknown_only

logger = logging.getLogger(__name__)

# Any vocabulary, of whatever language, knows at least one of these.
_COMMON_TEXTS = ["the cat and a dog", "2026", "\u732b", "\uace0\uc591\uc774", "\u043a\u043e\u0442"]

# Longer error messages of the libraries are cut to this many characters.
_MAX_CHARACTERS = 300

# The table of token vectors often has a few more rows than the vocabulary has tokens. A vocabulary
# with less than this share of the rows is incomplete.
_LEAST_VOCABULARY = 0.75

_NUMBER = re.compile(r"\.\d+(?=\.)")

# Parts of a transformer that do not affect the vectors of its tokens: the pooler's output is not
# used, and of an encoder and decoder only the encoder is run.
_UNUSED = re.compile(r"(^|\.)pooler\.|^decoder\.|^lm_head\.|position_ids$")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Let transformers draw no bars; it loads most models within a second."""
    were_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            transformers_logging.enable_progress_bar()


@_no_progress_bars()
def load_sentence_model(located: LocatedTextModel, device: torch.device | str) -> Any:
    """Return the `SentenceTransformer` of a folder, in float32 and evaluation mode.

    transformers only logs that it replaced missing tensors by random numbers; here it is an error.
    Raises `ModelFilesError` naming the folder or file, and the fix.
    """
    folder = located.folder
    require_text_model(folder)
    for path, kind in text_modules(folder):
        if kind == "Transformer" and not (path / "adapter_config.json").is_file():
            _require_all_tensors(path)

    def load() -> Any:
        return SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )

    model = _load_or_name_folder(folder, load).eval()
    _require_words(folder, model[0])
    return model


def _require_words(folder: Path, first: Any) -> None:
    """Raise `ModelFilesError` if the vocabulary is missing, or too small for the weights."""
    tokenizer = getattr(first, "tokenizer", None)
    names, fix = ", ".join(VOCABULARIES), "Fix: copy the model's whole folder again"
    if tokenizer is None:
        return
    if unknown_only(tokenizer, _COMMON_TEXTS).all():
        raise ModelFilesError(
            f"{folder}: its tokeniser knows no word, not even {_COMMON_TEXTS[0]!r}: the vocabulary "
            f"({names}) is missing or damaged. {fix}"
        )
    config = getattr(getattr(first, "auto_model", None), "config", None)
    n_tokens = int(getattr(config, "vocab_size", None) or 0)
    if n_tokens and len(tokenizer) < _LEAST_VOCABULARY * n_tokens:
        raise ModelFilesError(
            f"{folder}: its tokeniser has {len(tokenizer):,} tokens, but the weights "
            f"have {n_tokens:,}: the vocabulary ({names}) is incomplete or belongs to another "
            f"model. {fix}"
        )


def _require_all_tensors(folder: Path) -> None:
    """Raise `ModelFilesError` unless the weights of a transformer are those of its config.json."""

    def load() -> Any:
        return AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )

    model, loaded = _load_or_name_folder(folder, load)
    known = {_NUMBER.sub(".N", name) for name in model.state_dict()}
    extra = sorted(loaded["unexpected_keys"])
    missing = sorted(name for name in loaded["missing_keys"] if not _UNUSED.search(name))
    # Heads for other tasks may be there too, but not more layers than in the config.
    surplus = [name for name in extra if _NUMBER.sub(".N", name) in known]
    wrong = [
        f"{name} {tuple(found)} instead of {tuple(expected)}"
        for name, found, expected in loaded["mismatched_keys"]
    ]
    faults = {"lack": missing, "have too many:": surplus, "have a wrong shape:": sorted(wrong)}
    problems = [f"they {verb} {shortened(names)}" for verb, names in faults.items() if names]
    if problems:
        raise ModelFilesError(
            f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}. "
            "Fix: copy config.json and the weights again, from the same model"
        )
    if extra:
        logger.info(f"{folder} has tensors that are not used: {shortened(extra)}")


def _load_or_name_folder(folder: Path, load: Callable[[], Any]) -> Any:
    """Return `load()`; turn errors about the content of files into `ModelFilesError`."""
    try:
        return load()
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:_MAX_CHARACTERS]
        raise ModelFilesError(
            f"{folder} cannot be loaded as a sentence-transformers model ({type(error).__name__}: "
            f"{reason}). Fix: copy the model's whole folder again"
        ) from error

"""Check the files of an encoder model before a library reads them.

The libraries accept many incomplete models: without a vocabulary the tokeniser knows no word, and
missing tensors are replaced by random numbers. Where the libraries fail, they often do not name the
file. Nothing here runs code from a file.
"""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mmctr_pipeline.files.foreign import foreign_content
from mmctr_pipeline.files.tensors import blocked_name
from mmctr_pipeline.settings import SettingsError

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "*.model",
    "spm.*",
    "whitespacetokenizer_config.json",
)
"""Patterns of the file names of vocabularies. A model that reads words needs one."""


# Whether each kind of sentence-transformers module has a configuration, weights, a vocabulary.
_MODULES = {
    "Transformer": (True, True, True),
    "Pooling": (True, False, False),
    "Dense": (True, True, False),
    "LayerNorm": (True, True, False),
    "WeightedLayerPooling": (True, True, False),
    "StaticEmbedding": (False, True, True),
}
# In the order in which the libraries look for them.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Files that only a sentence-transformers model has, which also has modules.json.
_SENTENCE_FILES = ("config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling")


class ModelFilesError(SettingsError):
    """A file of an encoder model is missing or unusable; the message names it and the fix."""


def require_text_model(folder: Path) -> None:
    """Raise `ModelFilesError` unless a sentence-transformers folder is complete and readable."""
    for path, kind in text_modules(folder):
        if (path / "adapter_config.json").is_file():
            continue  # This is an adapter, and the library checks its files itself.
        has_config, has_weights, has_vocabulary = _MODULES.get(kind, (False, False, False))
        if has_config and not (path / "config.json").is_file():
            raise ModelFilesError(_lacks(path, "config.json", kind))
        if has_vocabulary:
            _require_vocabulary(path, kind)
        for settings in path.glob("*.json"):
            read_json(settings)
        if has_weights:
            for weights in _weights_of(path, kind):
                require_weights(weights)


def text_modules(folder: Path) -> list[tuple[Path, str]]:
    """Return folder and kind of each module of a sentence-transformers model.

    A plain transformers model counts as a single module.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        sign = next((name for name in _SENTENCE_FILES if (folder / name).exists()), None)
        if sign is not None:
            raise ModelFilesError(
                f"{folder} has {sign}, but no modules.json, which says how tokens become one "
                "vector. Fix: copy the model's whole folder again"
            )
        return [(folder, "Transformer")]
    modules = read_json(listing)
    try:
        return [(folder / module["path"], module["type"].rpartition(".")[2]) for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelFilesError(
            f"{listing} is not a list of modules with path and type ({error!r}). Fix: copy it again"
        ) from error


def require_weights(path: Path) -> None:
    """Raise `ModelFilesError` unless a file holds tensors that can be read without running code."""
    fault = _failed_copy(path)
    if fault is None:
        is_safe = path.suffix == ".safetensors"
        fault = _safetensors_fault(path) if is_safe else _pickle_fault(path)
    if fault is not None:
        raise ModelFilesError(f"{path} {fault}")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raises `ModelFilesError`."""
    fault = _failed_copy(path)
    if fault is not None:
        raise ModelFilesError(f"{path} {fault}")
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelFilesError(f"{path} is not JSON ({error}). Fix: copy it again") from error


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the format of OpenAI's CLIP files."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _require_vocabulary(path: Path, kind: str) -> None:
    # The library uses the first one that exists.
    vocabulary = next((found for name in VOCABULARIES for found in path.glob(name)), None)
    if vocabulary is None:
        raise ModelFilesError(_lacks(path, f"vocabulary ({', '.join(VOCABULARIES)})", kind))
    if vocabulary.name == "vocab.json" and not (path / "merges.txt").is_file():
        raise ModelFilesError(_lacks(path, "merges.txt, the second part of vocab.json", kind))
    fault = _failed_copy(vocabulary)
    if fault is not None:
        raise ModelFilesError(f"{vocabulary} {fault}")


def _weights_of(path: Path, kind: str) -> Iterator[Path]:
    """Yield the weight files of a module; for sharded weights, those that the index lists."""
    chosen = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if chosen is None:
        raise ModelFilesError(_lacks(path, f"weights ({', '.join(_WEIGHTS)})", kind))
    if chosen.suffix != ".json":
        yield chosen
        return
    index = read_json(chosen)
    if not isinstance(index, Mapping) or not isinstance(index.get("weight_map"), Mapping):
        raise ModelFilesError(f"{chosen} has no weight_map. Fix: copy it again")
    for name in sorted(set(map(str, index["weight_map"].values()))):
        if not (path / name).is_file():
            raise ModelFilesError(
                f"{path} lacks {name}, a part of the weights that {chosen.name} lists. "
                "Fix: copy that file too"
            )
        yield path / name


def _lacks(path: Path, what: str, kind: str) -> str:
    return f"{path} has no {what}, which {kind} needs. Fix: copy the model's whole folder again"


def _failed_copy(path: Path) -> str | None:
    """Say how copying or downloading a file failed, or return None if nothing shows that."""
    if not path.stat().st_size:
        return "is empty. Fix: copy or download it again"
    foreign = foreign_content(path)
    return None if foreign is None else "is " + ". Fix: ".join(foreign)


def _safetensors_fault(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        return f"is damaged or truncated ({error}). Fix: copy or download it again"
    return None if names else "holds no tensors. Fix: copy or download it again"


def _pickle_fault(path: Path) -> str | None:
    if is_torchscript(path):
        return None
    try:
        # Loads no tensor values, and from a zip file does not even read them.
        is_zip = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="meta", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        name = blocked_name(error)
        found = f"{name} besides tensors" if name else "other than plain tensors"
        return (
            f"holds {found}, and reading that would run code from the file. Fix: use the model's "
            ".safetensors file; or, if you trust the file, save only its tensors once (torch.save "
            "of the state_dict)"
        )
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError) as error:
        return _damaged(error)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(map(torch.is_tensor, state.values())):
        return "holds no table of tensors. Fix: save the state_dict of the model"
    return None


def _damaged(error: Exception) -> str:
    # Only the first line: torch goes on with advice to load without its safeguard.
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"is damaged or truncated ({reason}). Fix: copy or download it again"


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Return the first `most` names as text, and how many more there are."""
    n_omitted = len(names) - most
    return ", ".join(names[:most]) + (f" and {n_omitted:,} more" if n_omitted > 0 else "")

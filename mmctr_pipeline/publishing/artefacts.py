"""The finished files of each asset, as they are published.

Checkpoints, locks, and the shards of the vector store are no finished files and stay local.
"""

import dataclasses
import fnmatch
import os
from pathlib import Path, PurePosixPath

ARTEFACTS: dict[str, tuple[str, ...]] = {
    "text_embeddings": ("text_embeddings.parquet",),
    "image_embeddings": ("image_embeddings.parquet", "image_problems.parquet"),
    "fused_pca": (
        "fused_pca.parquet",
        "item_info_fused_multimodal.parquet",
        "custom_item_embeddings.parquet",
        "neighbours.png",
        "transforms/*.pt",
        "transforms/made-by-*.json",
    ),
    "train_dataset": ("train_dataset/*.parquet",),
    "trained_model": ("latest_model.pt",),
    "champion": ("champion.json", "best_model.pt", "contest.json"),
    "model_report": ("latest_report.html",),
    "submission_csv": ("submission.csv", "prediction.zip"),
}
"""For each asset, patterns of its files in the storage folder. The first pattern must match a file;
the others are by-products. Links to a version of a model stand for the version's files, the link to
a report for the report alone, which may be drawn again."""

MODEL_FILES = "models/*/*"
"""Pattern of the files of a model's versions."""

REPORT = "report.html"
"""Name of a report in the folder of its version."""


@dataclasses.dataclass(frozen=True)
class Artefact:
    """The files of an asset, and its links with their targets, as paths in the storage folder."""

    name: str
    files: tuple[str, ...]
    links: dict[str, str]


def find_artefact(storage: Path, name: str) -> Artefact | None:
    """Return the finished files of an asset, or None if it has not been materialised.

    The champion comes with the files of its version, of the best model ever promoted, and of the
    champion before. Raises `DamagedFileError` if its record cannot be read.
    """
    files: list[str] = []
    links: dict[str, str] = {}
    for number, pattern in enumerate(ARTEFACTS[name]):
        found = sorted(path for path in storage.glob(pattern) if not path.name.startswith("."))
        if number == 0 and not found:
            return None
        for path in found:
            relative = path.relative_to(storage).as_posix()
            target = os.readlink(path) if path.is_symlink() else ""
            if _matches(target, MODEL_FILES):
                links[relative] = target
            else:
                files.append(relative)
    targets = [PurePosixPath(target) for target in links.values()]
    files += [str(target) for target in targets if target.name == REPORT]
    versions = [target.parent.name for target in targets if target.name != REPORT]
    if name == "champion":
        versions += _protected_versions(storage)
    # Models come first, so that no fetched record or link ever names a model that is not there.
    of_versions = [path for version in versions for path in _version_files(storage, version)]
    return Artefact(name, tuple(dict.fromkeys([*of_versions, *files])), links)


def _protected_versions(storage: Path) -> list[str]:
    from mmctr_pipeline.registry.champion import Champion  # imports torch

    champion = Champion.read(storage)
    assert champion is not None  # the caller has found the record
    former = [record["version"] for record in champion.former[:1]]
    return [champion.version, champion.best, *former]


def _version_files(storage: Path, version: str) -> list[str]:
    """Return the files of a version but its report, `model.pt` last: it completes a version."""
    paths = (storage / "models" / version).glob("*")
    names = sorted((path.name == "model.pt", path.name) for path in paths if path.name != REPORT)
    return [f"models/{version}/{name}" for _, name in names]


def belongs_to(name: str, path: str) -> bool:
    """Return whether an asset may have a file or link at `path`.

    A record in an object store may come from anyone who can write there, so paths that lead
    elsewhere must not be followed.
    """
    return any(_matches(path, pattern) for pattern in (*ARTEFACTS[name], MODEL_FILES))


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("/"), pattern.split("/")
    return (
        len(parts) == len(patterns)
        and all(map(fnmatch.fnmatchcase, parts, patterns))
        and all(part and not part.startswith(".") for part in parts)
    )

"""The champion: the version that submissions come from, and the champions before it."""

import dataclasses
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from mmctr_pipeline.files.atomic import atomic_symlink
from mmctr_pipeline.files.errors import DamagedFileError, naming_write_errors
from mmctr_pipeline.files.fields import require_fields
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import WRITER_LOCK, model_path, newest_first, sha256_of

logger = logging.getLogger(__name__)

_LISTS = ("former", "withdrawn")
"""Fields that are not recorded of former champions."""


class ChampionError(ValueError):
    """There is no champion, or a version cannot become one; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Champion:
    """The record `champion.json`.

    `version` and `sha256` name the model file, `promoted_at` is a UTC time in ISO 8601, and
    `reason` says why it was promoted. `best` is the version of the best model ever promoted.
    `former` has the records of the earlier champions, the latest first, without theirs. `withdrawn`
    are the versions that a roll-back took back: only by hand do they become the champion again.
    """

    version: str
    sha256: str
    promoted_at: str
    reason: str
    best: str
    former: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    withdrawn: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, storage: Path) -> Self | None:
        """Read the record of a storage folder; return None if nothing was promoted yet.

        Raises `DamagedFileError`.
        """
        path = storage / "champion.json"
        if not path.is_file():
            return None
        content = {"withdrawn": [], **read_record(path)}  # earlier versions did not record them
        require_fields(cls, content, path)
        return cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})

    def write(self, storage: Path) -> None:
        """Write the record, then point `best_model.pt` to the version.

        The record decides: a process that dies in between leaves an old link, which the next
        write replaces. Raises `ChampionError` if the model file is missing or is another one.
        """
        require_version(storage, self.version, self.sha256)
        link = storage / "best_model.pt"
        with naming_write_errors(link), locked(storage / "models" / WRITER_LOCK):
            write_record(storage / "champion.json", dataclasses.asdict(self))
            atomic_symlink(link, model_path(Path(), self.version))

    def load(self, storage: Path) -> ModelFile:
        """Load the champion's model file; raises `ChampionError` or the errors of `ModelFile`."""
        require_version(storage, self.version)
        return ModelFile.load(model_path(storage, self.version))


def succeed(
    storage: Path, champion: Champion | None, version: str, reason: str, best: str | None = None
) -> Champion:
    """Return the record that makes `version` the champion, for the caller to write.

    If `version` was the champion before, this is a roll-back: the champion so far is withdrawn.

    Raises `ChampionError` if there is no such version.

    Parameters
    ----------
    storage
        The storage folder.
    champion
        The champion so far, or None.
    version
        The version to promote.
    reason
        Why, for the record.
    best
        The best model ever promoted from now on; by default the one so far, or else `version`.
    """
    require_version(storage, version)
    former, withdrawn = [], []
    if champion is not None:
        own = {name: value for name, value in vars(champion).items() if name not in _LISTS}
        former = [*([own] if champion.version != version else []), *champion.former]
        withdrawn = [each for each in champion.withdrawn if each != version]
        if champion.version != version and version in _versions(champion.former):
            withdrawn.append(champion.version)
        best = best or champion.best
        if best in withdrawn:
            best = version
    return Champion(
        version=version,
        sha256=sha256_of(model_path(storage, version)),
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        best=best or version,
        former=former,
        withdrawn=withdrawn,
    )


def _versions(records: list[dict[str, Any]]) -> list[str]:
    return [record["version"] for record in records]


def previous_version(storage: Path, champion: Champion | None) -> str:
    """Return the version to roll back to: the newest former champion that is kept, not withdrawn.

    Raises `ChampionError` if there is none.
    """
    if champion is not None:
        for former in champion.former:
            version = former["version"]
            is_usable = version != champion.version and version not in champion.withdrawn
            if is_usable and model_path(storage, version).is_file():
                return version
    raise ChampionError(
        "there is no former champion to roll back to; `mmctr models list` shows all versions, and "
        "`mmctr models promote VERSION` promotes one of them"
    )


def require_version(storage: Path, version: str, sha256: str | None = None) -> None:
    """Raise `ChampionError` unless the version is there, with the given hash if there is one."""
    path = model_path(storage, version)
    if not path.is_file():
        known = ", ".join(newest_first(storage)[:10]) or "none; materialise trained_model"
        raise ChampionError(f"{storage / 'models'} has no version {version}; it has: {known}")
    if sha256 is not None and sha256_of(path) != sha256:
        raise ChampionError(
            f"{path} is not the file that was promoted: its SHA-256 differs from the recorded one. "
            "Fix: restore the file, or promote another version (mmctr models promote VERSION)"
        )


def drop_versions(
    storage: Path, champion: Champion, keep_models: int, keep_former: int
) -> list[str]:
    """Delete old versions and return their names, the newest first.

    Kept are the newest `keep_models` versions, the champion, the best model ever promoted, and the
    newest `keep_former` former champions.
    """
    former = list(dict.fromkeys(record["version"] for record in champion.former))[:keep_former]
    kept = {champion.version, champion.best, *former, *newest_first(storage)[:keep_models]}
    dropped = [version for version in newest_first(storage) if version not in kept]
    with locked(storage / "models" / WRITER_LOCK):
        for version in dropped:
            shutil.rmtree(storage / "models" / version)
    if dropped:
        logger.info(f"dropped {len(dropped)} old versions of models: {', '.join(dropped)}")
    return dropped


def best_model(storage: Path, champion: Champion) -> ModelFile | None:
    """Load the best model ever promoted, or None if that is the champion or cannot be read."""
    if champion.best == champion.version:
        return None
    try:
        return ModelFile.load(model_path(storage, champion.best))
    except (FileNotFoundError, DamagedFileError) as error:
        logger.warning(f"the best model ever promoted cannot be compared: {error}")
        return None

"""The last accepted night, and the latest one: two small files in the folder `monitoring`.

`latest.json` is written by each check of the data, `accepted.json` when a night's submission has
been written, so that a blocked night never becomes the one that later nights are compared with.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.monitoring.config import MonitoringConfig
from mmctr_pipeline.monitoring.drift import Finding, compare, compare_scores, source_of
from mmctr_pipeline.monitoring.profile import DataProfile, ScoreProfile

_FIX = "Fix: remove it; the next night then counts as the first"
_SHOWN = 4
_Name = Literal["latest", "accepted"]


class BlockedDataError(ValueError):
    """The data of a night differ too much from the last accepted night's; the message says how."""


@dataclasses.dataclass(frozen=True)
class Night:
    """A night's data, the scores of its submission if it has one, and why its data are blocked.

    `blocked` is "" if they are not.
    """

    profile: DataProfile
    scores: ScoreProfile | None = None
    blocked: str = ""

    @classmethod
    def read(cls, storage: Path, name: _Name) -> Self | None:
        """Read one of the two nights of a storage folder; None if there is none.

        Raises `DamagedFileError`.
        """
        path = _path(storage, name)
        try:
            content = read_record(path)
            return cls(
                DataProfile.from_mapping(content["profile"]),
                ScoreProfile.from_mapping(content["scores"]) if content["scores"] else None,
                content["blocked"],
            )
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. {_FIX}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(
                f"{path} was written by another version of the pipeline ({error!r}). {_FIX}"
            ) from error

    def write(self, storage: Path, name: _Name) -> None:
        """Write the night as one of the two of a storage folder."""
        write_record(_path(storage, name), dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Findings about a night's data or scores.

    Parameters
    ----------
    findings
        One for each measure; none if nothing was compared.
    blocked
        Why the night is blocked, with the fix; "" if it is not.
    skipped
        Why nothing was compared; "" if something was.
    """

    findings: list[Finding]
    blocked: str = ""
    skipped: str = ""

    def about(self, source: str) -> "Verdict":
        """Return the verdict with the findings about one source asset alone."""
        own = [finding for finding in self.findings if source_of(finding.column) == source]
        return dataclasses.replace(self, findings=own)


def check_data(profile: DataProfile, storage: Path, limits: MonitoringConfig) -> Verdict:
    """Compare a night's data with the last accepted night's, and record it as the latest night.

    Raises `DamagedFileError` if the record of the accepted night cannot be read.
    """
    accepted = Night.read(storage, "accepted")
    skipped = _why_skipped(profile, accepted)
    findings = compare(profile, accepted.profile, limits) if accepted and not skipped else []
    blocked = _blocked(findings)
    Night(profile, blocked=blocked).write(storage, "latest")
    return Verdict(findings, _with_advice(blocked), skipped)


def check_scores(
    scores: ScoreProfile, storage: Path, fingerprint: str, limits: MonitoringConfig
) -> Verdict:
    """Compare the scores of a written submission with the last accepted night's.

    The night is then the accepted one, unless its data or its scores are blocked or it is of an
    earlier day. If the data that were scored are not those that were checked last, nothing is
    compared. Raises `DamagedFileError` if a record cannot be read.

    Parameters
    ----------
    scores
        Profile of the scores.
    storage
        The storage folder.
    fingerprint
        Fingerprint of the dataset that was scored.
    limits
        Levels of the scores.
    """
    latest, accepted = Night.read(storage, "latest"), Night.read(storage, "accepted")
    if latest is None or latest.profile.fingerprint != fingerprint:
        return Verdict([], skipped="not compared: the data of these scores have not been checked")
    skipped = _why_skipped(latest.profile, accepted)
    findings = []
    if accepted and not skipped:
        if accepted.scores:
            findings = compare_scores(scores, accepted.scores, limits)
        else:
            skipped = "not compared: the last accepted night has no scores"
    blocked = _blocked(findings)
    night = dataclasses.replace(latest, scores=scores)
    night.write(storage, "latest")
    if not (night.blocked or blocked or _is_earlier(night.profile, accepted)):
        night.write(storage, "accepted")
    return Verdict(findings, _with_advice(blocked), skipped)


def accept_latest(storage: Path) -> Night | None:
    """Accept the latest night, blocked or not, and return it as it was; None if there is none."""
    latest = Night.read(storage, "latest")
    if latest:
        for name in ("latest", "accepted"):
            dataclasses.replace(latest, blocked="").write(storage, name)
    return latest


def require_not_blocked(storage: Path, fingerprint: str) -> None:
    """Raise `BlockedDataError` if the data with this fingerprint are those of a blocked night."""
    latest = Night.read(storage, "latest")
    if latest and latest.blocked and latest.profile.fingerprint == fingerprint:
        raise BlockedDataError(_with_advice(f"the data are blocked: {latest.blocked}"))


def _is_earlier(profile: DataProfile, accepted: Night | None) -> bool:
    if accepted is None or profile.folder != accepted.profile.folder:
        return False
    return "" < profile.day < accepted.profile.day


def _why_skipped(profile: DataProfile, accepted: Night | None) -> str:
    if accepted is None:
        return "the first night: there is no accepted night to compare with"
    if profile.folder != accepted.profile.folder:
        return f"not compared: the last accepted night has data in {accepted.profile.folder}"
    if _is_earlier(profile, accepted):
        return f"not compared: an earlier day than the last accepted, {accepted.profile.day}"
    return ""


def _blocked(findings: Sequence[Finding]) -> str:
    sentences = [finding.sentence for finding in findings if finding.severity == "block"]
    rest = len(sentences) - _SHOWN
    return "; ".join(sentences[:_SHOWN]) + (f"; and {rest} more, see the table" if rest > 0 else "")


def _with_advice(reason: str) -> str:
    """Add the fix to a reason, unless it is empty."""
    fix = "Fix: correct the data and run again; if the change is meant, run `mmctr accept` first"
    return reason and f"{reason}. {fix}"


def _path(storage: Path, name: _Name) -> Path:
    return storage / "monitoring" / f"{name}.json"

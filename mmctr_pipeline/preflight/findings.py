"""Findings of the preflight, and the table of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.encoders.text.titles import TemplateError
from mmctr_pipeline.environment import DeploymentError
from mmctr_pipeline.settings import SettingsError

Severity = Literal["error", "warning", "ok"]

EXPECTED = (DataError, DeploymentError, OSError, SettingsError, TemplateError)
"""Errors that become findings; their messages name the place and the fix."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one preflight check.

    Parameters
    ----------
    severity
        `error` if the run would fail.
    check
        What was checked, such as "labels".
    where
        The setting, variable or file.
    text
        What was found, with the fix unless all is well; one line.
    cause
        The error that was raised, if one was.
    """

    severity: Severity
    check: str
    where: str
    text: str
    cause: Exception | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " ".join(self.text.split()))

    def __str__(self) -> str:
        # Messages of the core often begin with the file.
        where = "" if self.text.startswith(self.where) else f"{self.where}: "
        return f"{self.check}: {where}{self.text}"


def found(check: str, where: str, examine: Callable[[], str], fix: str = "") -> Finding:
    """Return a finding with the answer of `examine`, or with the error that it raises.

    Parameters
    ----------
    check, where
        As in `Finding`.
    examine
        Returns what is well, or raises one of `EXPECTED`.
    fix
        The fix for errors whose message names none, in the imperative.
    """
    try:
        return Finding("ok", check, where, examine())
    except EXPECTED as error:
        text = str(error)
        if fix and "Fix: " not in text:
            text = f"{text}. Fix: {fix}"
        return Finding("error", check, where, text, error)


def table(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, the errors first."""
    order = ("error", "warning", "ok")
    rows = sorted(findings, key=lambda finding: order.index(finding.severity))
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        text = str(row).removeprefix(f"{row.check}: ")
        lines.append(f"{row.severity:<8} {row.check:<{width}}  {text}")
    return "\n".join(lines)

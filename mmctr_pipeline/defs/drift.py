"""Show the findings of `monitoring` as the outcome of an asset check."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from mmctr_pipeline.reporting.checks import CheckOutcome

if TYPE_CHECKING:
    from mmctr_pipeline.monitoring.drift import Finding
    from mmctr_pipeline.monitoring.night import Verdict


def drift_outcome(name: str, verdict: "Verdict", figures: Mapping[str, float]) -> CheckOutcome:
    """Return the outcome of a check, with all its measures in a table.

    Parameters
    ----------
    name
        Name of the check.
    verdict
        If it is blocked, the outcome is an error; if it only has warnings, a warning.
    figures
        Further numbers to show.
    """
    warnings = [finding.sentence for finding in verdict.findings if finding.severity == "warn"]
    passing = verdict.skipped or "no measure is above its warning level"
    explanation = verdict.blocked or "; ".join(warnings) or passing
    numbers: dict[str, Any] = {**figures, "warnings": len(warnings)}
    psi = [finding.value for finding in verdict.findings if finding.measure.endswith("psi")]
    if psi:
        numbers["largest PSI"] = max(psi)
    if verdict.findings:
        numbers["measures"] = _table(verdict.findings)
    passed = not (verdict.blocked or warnings)
    return CheckOutcome(name, passed, explanation, numbers, severe=passed or bool(verdict.blocked))


def _table(findings: "Sequence[Finding]") -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            {
                "verdict": finding.severity,
                "measure": finding.measure,
                "column": finding.column,
                "value": _shown(finding.value),
                "by chance": _shown(finding.chance),
                "warn above": _shown(finding.warn),
                "block above": _shown(finding.block),
                "figures": finding.figures,
            }
        )
        for finding in findings
    ]
    return dg.MetadataValue.table(records)


def _shown(number: float | None) -> str:
    return "never" if number is None else f"{number:.3g}"

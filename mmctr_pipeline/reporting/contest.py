"""The contest of challenger and champion as a record, as tables and as a check."""

import dataclasses
from pathlib import Path
from typing import Any

from mmctr_pipeline.files.markdown import table
from mmctr_pipeline.files.records import read_record, write_record
from mmctr_pipeline.registry.comparison import PairedAuc
from mmctr_pipeline.registry.contest import Outcome
from mmctr_pipeline.reporting.checks import CheckOutcome

_RECORD = "contest.json"


def write_contest(storage: Path, outcome: Outcome) -> None:
    """Keep the outcome of the last contest in `contest.json`."""
    content = {
        "challenger": outcome.version,
        "champion": outcome.champion.version,
        "promoted": outcome.promoted,
        "headline": outcome.headline,
        "problems": list(outcome.problems),
        "comparison": dataclasses.asdict(outcome.comparison) if outcome.comparison else None,
    }
    write_record(storage / _RECORD, content)


def read_contest(storage: Path) -> dict[str, Any]:
    """Read the record of the last contest; raises `FileNotFoundError` or `DamagedFileError`."""
    return read_record(storage / _RECORD)


def find_contest(storage: Path, version: str) -> dict[str, Any] | None:
    """Read the record of the last contest if `version` was the challenger; else return None."""
    if not (storage / _RECORD).is_file():
        return None
    found = read_contest(storage)
    return found if found["challenger"] == version else None


def challenger_promoted(storage: Path) -> CheckOutcome:
    """Report whether the last challenger became the champion; a rejection is a warning."""
    found = read_contest(storage)
    headline = found["headline"]
    if not found["promoted"]:
        headline += f". Submissions still come from {found['champion']}"
    numbers = {"challenger": found["challenger"], "champion": found["champion"]}
    return CheckOutcome("challenger_promoted", found["promoted"], headline, numbers, severe=False)


def contest_numbers(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of a contest by name, for plots over runs; empty if none was held."""
    found = outcome.comparison
    if found is None:
        return {}
    return {
        "AUC of the challenger": found.whole.challenger,
        "AUC of the champion": found.whole.other,
        "difference": found.whole.difference,
        "lower end of the difference": found.whole.low,
        "detectable difference": found.detectable,
    }


def contest_table(outcome: Outcome) -> str:
    """Return the comparison by slice as a Markdown table, or why there is none."""
    found = outcome.comparison
    if found is None:
        return outcome.headline
    rows = [_row(found.whole, "champion"), *(_row(each, "champion") for each in found.slices)]
    if found.best is not None:
        rows.append(_row(found.best, "best ever promoted"))
    headers = ["rows", "number", "compared with", "its AUC", "challenger", "difference", "low"]
    lines = [
        table(headers, rows, "lrlrrrr"),
        '"low" is the lower end of the one-sided 95 % interval of the difference. With this many '
        f"rows, a challenger that is {found.detectable:+.4f} better is promoted with a probability "
        "of 80 %.",
        *(f"- {problem}" for problem in outcome.problems),
    ]
    return "\n\n".join(lines)


def _row(found: PairedAuc, whom: str) -> list[str]:
    return [
        found.name,
        f"{found.n_rows:,}",
        whom,
        f"{found.other:.4f}",
        f"{found.challenger:.4f}",
        f"{found.difference:+.4f}",
        f"{found.low:+.4f}",
    ]

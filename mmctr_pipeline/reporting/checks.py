"""Check artefacts against limits; each verdict carries the numbers behind it.

Users set the limits of `ChecksConfig` (section `checks` of a preset); the others are constants.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.facts import unseen_rows
from mmctr_pipeline.data.histories import RowHistories
from mmctr_pipeline.data.ids import with_padding
from mmctr_pipeline.data.outliers import described, find_outliers, named_outliers
from mmctr_pipeline.data.schemas import MAX_LEVEL
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.plugins import is_plugin
from mmctr_pipeline.registry.auc_gate import AucVerdict

DISJOINT_USERS, SAME_USERS = 0.01, 0.99
"""Shares of the valid users that are in train: up to the first share, the split is by user; from
the second share on, it is by time."""

MAX_UNSEEN = 0.5
"""Largest share of valid rows that may have an item, or a level, that no train row has."""

MAX_VARIANCE_GAP = 0.2
"""Largest difference between the shares of variance that titles and covers keep."""

_CONTENTS = {"text": "titles", "image": "covers"}


@dataclasses.dataclass(frozen=True)
class CheckOutcome:
    """Verdict of one check: its name, whether it passed, the reason, and the numbers behind it.

    If `severe` is False, a failure is only a warning, and the artefact may still be used. The
    headline of an event is `figures`, as in "0.7335 < 0.75", or the explanation's first sentence.
    """

    name: str
    passed: bool
    explanation: str
    numbers: Mapping[str, Any]
    severe: bool = True
    figures: str = ""


def _outcome(
    name: str, problems: Sequence[str], if_passed: str, numbers: Mapping[str, Any]
) -> CheckOutcome:
    """Return a check that passes if there are no problems, with `if_passed` as its explanation."""
    return CheckOutcome(name, not problems, "; ".join(problems) or if_passed, numbers)


def vectors_shape(
    table: VectorTable, item_id: np.ndarray, padding_row: bool = False
) -> CheckOutcome:
    """Check that the table has a row per item, a padding row 0 if asked, and the recorded width."""
    expected = with_padding(item_id) if padding_row else item_id
    missing = np.setdiff1d(expected, table.item_id)
    unknown = np.setdiff1d(table.item_id, expected)
    recorded = table.provenance.get("dim")
    problems = []
    if len(missing):
        problems.append(f"{len(missing)} items have no row, the first is {missing[0]}")
    if len(unknown):
        problems.append(f"{len(unknown)} items are not in item_feature, the first is {unknown[0]}")
    if table.dim != recorded:
        problems.append(f"{table.dim} dimensions, but {recorded} were recorded")
    if problems:
        problems.append("materialise the vectors again from the current item_feature")
    numbers = {
        "rows": len(table.item_id),
        "dimensions": table.dim,
        "items missing": len(missing),
        "items unknown": len(unknown),
    }
    shape = f"{len(table.item_id)} rows of {table.dim} dimensions"
    return _outcome("shape", problems, shape, numbers)


def vectors_finite(table: VectorTable) -> CheckOutcome:
    """Check that present vectors are finite, not zero and not all equal, and the others zero."""
    finite = np.isfinite(table.vectors).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(table.vectors.astype(np.float64), axis=1)
    is_zero = norms == 0
    faults = {
        "not finite": (~finite, "has a NaN or an infinity"),
        "zero though present": (table.present & is_zero, "is all zeros but marked as present"),
        "not zero though absent": (~table.present & ~is_zero, "is not zero but marked as absent"),
    }
    numbers: dict[str, Any] = {name: int(rows.sum()) for name, (rows, _) in faults.items()}
    problems = [
        f"{numbers[name]} vectors are wrong: the first, that of item "
        f"{table.item_id[rows.argmax()]}, {fault}"
        for name, (rows, fault) in faults.items()
        if numbers[name]
    ]
    usable = table.present & finite
    vectors = table.vectors[usable]
    if len(vectors):
        numbers["smallest norm"] = float(norms[usable].min())
        numbers["median norm"] = float(np.median(norms[usable]))
        numbers["largest norm"] = float(norms[usable].max())
    if not problems and len(vectors) > 1 and (vectors == vectors[0]).all():
        problems.append("all present vectors are equal")
    if_passed = "all vectors are finite, and only absent ones are zero"
    return _outcome("finite_norms", problems, if_passed, numbers)


def norm_outliers(table: VectorTable, max_share: float) -> CheckOutcome:
    """Check the share of vectors whose norm is far from those of the others (`data.outliers`).

    Counts the outliers that were set to zero when the table was made, and those that it still has.
    """
    found = find_outliers(table)
    n_masked = table.provenance.get("counts", {}).get("outliers", 0)
    n_outliers, n_vectors = n_masked + len(found.rows), n_masked + int(table.present.sum())
    share = n_outliers / max(n_vectors, 1)
    named = [*table.provenance.get("outliers", []), *named_outliers(table, found)]
    explanation = "no norm is far from the others"
    if n_outliers:
        explanation = (
            f"{n_outliers:,} of {n_vectors:,} vectors ({share:.2%}) have a norm far from the "
            f"median {found.median:.3g}: {described(named)}"
        )
    if share > max_share:
        explanation += (
            f". The limit is {max_share:.2%}. Fix: correct the column or the encoder that they "
            "come from, or raise checks.max_outlier_vectors"
        )
    numbers = {"outliers": n_outliers, "share": share, "limit": max_share}
    return CheckOutcome("norm_outliers", share <= max_share, explanation, numbers)


def image_coverage(
    n_items: int, n_missing: int, n_unreadable: int, max_missing: float, max_unreadable: float
) -> CheckOutcome:
    """Check the shares of items without an image, and with one that cannot be decoded.

    Parameters
    ----------
    n_items, n_missing, n_unreadable
        Number of items, of those without an image file, and of those with an unreadable one.
    max_missing, max_unreadable
        Limits of the two shares.
    """
    missing, unreadable = n_missing / max(n_items, 1), n_unreadable / max(n_items, 1)
    problems = []
    if missing > max_missing:
        problems.append(f"{missing:.1%} of the items have no image (limit {max_missing:.1%})")
    if unreadable > max_unreadable:
        problems.append(
            f"{unreadable:.1%} of the items have an unreadable image (limit {max_unreadable:.1%})"
        )
    covered = 1 - missing - unreadable
    numbers = {"missing": n_missing, "unreadable": n_unreadable, "share covered": covered}
    if_passed = f"{covered:.1%} of the items have a readable image"
    return _outcome("image_coverage", problems, if_passed, numbers)


def explained_variance(
    share: float,
    min_share: float,
    method: str,
    share_of: Mapping[str, float] | None = None,
) -> CheckOutcome:
    """Check the share of the variance that the fused vectors keep, in total and by modality.

    A total below `min_share` is severe. The check warns if the shares of two modalities differ by
    more than `MAX_VARIANCE_GAP` (`share_of`, by the modality's name). The total does not show this,
    as it mostly depends on the modality with the longer vectors. The advice depends on `method`,
    the setting `fusion.method`.
    """
    share_of = {_CONTENTS[name]: value for name, value in (share_of or {}).items()}
    severe = not (np.isfinite(share) and share >= min_share)
    explanation = f"{share:.1%} of the variance is kept; at least {min_share:.1%} is required"
    if share_of:
        shares = (f"{value:.1%} for {content}" for content, value in share_of.items())
        explanation += f". By modality, the share is {' and '.join(shares)}"
    is_unbalanced = bool(share_of) and (
        max(share_of.values()) - min(share_of.values()) > MAX_VARIANCE_GAP
    )
    if is_unbalanced:
        least = min(share_of, key=share_of.__getitem__)
        explanation += f". The fused vectors keep too little of the {least}. Fix: "
        if is_plugin(method):
            explanation += f"raise fusion.dim, or let {method} keep more of the {least}"
        elif method == "pca_each":
            explanation += "raise fusion.dim"
        else:
            explanation += "set fusion.method to pca_each, which fits titles and covers separately"
    numbers = {"explained variance": float(share), "required": min_share}
    numbers |= {f"explained variance of {content}": value for content, value in share_of.items()}
    passed = not (severe or is_unbalanced)
    return CheckOutcome("explained_variance", passed, explanation, numbers, severe or passed)


def id_ranges(dataset: CtrDataset) -> CheckOutcome:
    """Check users (from 1), target and history items (in the item table), and levels."""
    n_histories, problems = len(dataset.histories), []
    for name, split in dataset.splits.items():
        if not len(split):
            problems.append(f"{name} has no rows")
        likes, views = split.likes_level, split.views_level
        for column, bad, rule in (
            ("user_id", split.user_id < 1, "ids start at 1"),
            ("item_id", ~np.isin(split.item_id, dataset.items.item_id), "item_feature lacks it"),
            ("history", (split.history < 0) | (split.history >= n_histories), "no such history"),
            ("likes_level", (likes < 0) | (likes > MAX_LEVEL), f"the range is 0..{MAX_LEVEL}"),
            ("views_level", (views < 0) | (views > MAX_LEVEL), f"the range is 0..{MAX_LEVEL}"),
        ):
            if bad.any():
                problems.append(f"{name} has {column} {getattr(split, column)[bad][0]} ({rule})")
    unknown = np.setdiff1d(dataset.histories.values, dataset.items.item_id)
    if len(unknown):
        problems.append(f"a history has item_id {unknown[0]}, which item_feature lacks")
    numbers = {f"{name} rows": len(split) for name, split in dataset.splits.items()}
    numbers |= {"items": len(dataset.items), "distinct histories": n_histories}
    return _outcome("id_ranges", problems, "all ids and levels are in range", numbers)


def label_values(dataset: CtrDataset) -> CheckOutcome:
    """Check that labels are 0 or 1, that train and valid have both, and that no test ID recurs."""
    problems, numbers = [], {}
    for name in ("train", "valid"):
        label = dataset.splits[name].label
        if label is None:
            problems.append(f"{name} has no labels")
            continue
        values = np.unique(label)
        if len(others := values[~np.isin(values, (0, 1))]):
            problems.append(f"{name} has a label other than 0 and 1: {others[0]}")
        elif len(values) < 2:
            problems.append(f"every label of {name} is {values[0] if len(values) else 'absent'}")
        numbers[f"{name} share of clicks"] = float(np.mean(label == 1)) if len(label) else 0.0
    if dataset.test.row_id is None:
        problems.append("test has no ID column")
    elif len(np.unique(dataset.test.row_id)) < len(dataset.test):
        problems.append("test has a repeated ID")
    return _outcome("label_values", problems, "labels are 0 and 1", numbers)


def user_overlap(dataset: CtrDataset) -> CheckOutcome:
    """Report whether valid users are train users: none (disjoint) or all (leave-last-out).

    Anything in between is probably unintended, except in logs by day.
    """
    users = np.unique(dataset.valid.user_id)
    share = float(np.isin(users, dataset.train.user_id).mean()) if len(users) else 0.0
    kind = "by day" if dataset.day else "mixed"
    kind = "disjoint" if share <= DISJOINT_USERS else kind
    kind = "leave-last-out" if share >= SAME_USERS else kind
    advice = "; a split is usually by user or by time, not by row" if kind == "mixed" else ""
    explanation = f"{share:.1%} of the valid users are in train: {kind}{advice}"
    numbers = {"share of valid users in train": share, "split": kind}
    return CheckOutcome("user_overlap", not advice, explanation, numbers, severe=False)


def unseen_values(dataset: CtrDataset) -> CheckOutcome:
    """Count the rows with a user, item or level that no train row has; many new users are fine."""
    counts = unseen_rows(dataset)
    shares = {name: n / max(len(dataset.valid), 1) for name, n in counts["valid"].items()}
    passed = all(share <= MAX_UNSEEN for name, share in shares.items() if name != "user_id")
    listed = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    explanation = f"valid rows with a value that no train row has: {listed}"
    return CheckOutcome("unseen_values", passed, explanation, counts, severe=False)


def target_in_history(dataset: CtrDataset, max_share: float) -> CheckOutcome:
    """Check how often a row's target is in the row's own history, which leaks the label."""
    shares = {}
    for name, split in dataset.splits.items():
        own = RowHistories(dataset.histories, split.history)
        shares[name] = own.count_with_target(split.item_id) / max(len(split), 1)
    # A leak in valid would inflate the very AUC that the check auc_floor judges.
    worst = max(("train", "valid"), key=lambda name: shares[name])
    passed = shares[worst] <= max_share
    limit = "" if passed else f" (limit {max_share:.2%}): the history may reveal the label"
    explanation = f"{shares[worst]:.2%} of the {worst} rows have their target in their history"
    numbers = {f"{name} share": share for name, share in shares.items()}
    return CheckOutcome("target_in_history", passed, explanation + limit, numbers)


def auc_floor(verdict: AucVerdict) -> CheckOutcome:
    """Report whether the validation AUC is good enough for a submission."""
    explanation, figures = verdict.explanation, verdict.figures
    return CheckOutcome("auc_floor", verdict.passed, explanation, verdict.numbers, figures=figures)


def submission_valid(problems: list[str], n_rows: int) -> CheckOutcome:
    """Report the problems found by reading the written submission back."""
    numbers = {"rows": n_rows, "problems": len(problems)}
    if_passed = f"{n_rows} rows in the order of the test file, all probabilities in [0, 1]"
    return _outcome("submission_valid", problems, if_passed, numbers)

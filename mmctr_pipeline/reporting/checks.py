"""What must hold of each artefact: functions from an artefact to a verdict with its numbers."""

import dataclasses
from typing import Any

import numpy as np

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable


@dataclasses.dataclass(frozen=True)
class CheckOutcome:
    """The verdict of one check: its name, whether it passed, why, and the numbers behind it.

    `severe` is False where a failure is worth a look but no reason to distrust the artefact.
    """

    name: str
    passed: bool
    explanation: str
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    severe: bool = True


def vectors_shape(
    table: VectorTable, item_id: np.ndarray, padding_row: bool = False
) -> CheckOutcome:
    """Check that the table has exactly one row per item, and the padding row 0 where it is due.

    Its width must be the one that its maker recorded (`dim` of the provenance).
    """
    expected = np.concatenate([[0], item_id]) if padding_row else item_id
    missing = np.setdiff1d(expected, table.item_id)
    unknown = np.setdiff1d(table.item_id, expected)
    numbers = {
        "rows": len(table.item_id),
        "dimensions": table.dim,
        "items missing": len(missing),
        "items unknown": len(unknown),
    }
    problem = ""
    if len(missing):
        problem = f"no row for {len(missing)} items, the first being {missing[0]}"
    elif len(unknown):
        problem = f"{len(unknown)} rows of items that are not in item_feature, first {unknown[0]}"
    elif table.dim != table.provenance.get("dim"):
        problem = f"{table.dim} dimensions, but {table.provenance.get('dim')} were recorded"
    return CheckOutcome(
        "shape",
        not problem,
        f"{problem}; materialise the vectors again from the current item_feature"
        if problem
        else f"{len(table.item_id)} rows of {table.dim} dimensions",
        numbers,
    )


def vectors_finite(table: VectorTable) -> CheckOutcome:
    """Check that present vectors are finite, not zero, not all the same, and masked ones zero."""
    finite = np.isfinite(table.vectors).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(table.vectors.astype(np.float64), axis=1)
    zero = table.present & (norms == 0)
    masked = ~table.present & (norms != 0)
    shown = table.vectors[table.present & finite]
    constant = len(shown) > 1 and bool((shown == shown[0]).all())
    numbers: dict[str, Any] = {
        "not finite": int((~finite).sum()),
        "zero though present": int(zero.sum()),
        "not zero though masked": int(masked.sum()),
    }
    present_norms = norms[table.present & finite]
    if len(present_norms):
        numbers["smallest norm"] = float(present_norms.min())
        numbers["median norm"] = float(np.median(present_norms))
        numbers["largest norm"] = float(present_norms.max())
    for bad, problem in (
        (~finite, "has a NaN or an infinity"),
        (zero, "is all zeros though its item has content"),
        (masked, "is not zero though its item is masked"),
    ):
        if bad.any():
            first = int(table.item_id[np.flatnonzero(bad)[0]])
            return CheckOutcome(
                "finite_norms",
                False,
                f"{int(bad.sum())} vectors are wrong; that of item {first} {problem}",
                numbers,
            )
    if constant:
        return CheckOutcome("finite_norms", False, "all present vectors are the same", numbers)
    return CheckOutcome("finite_norms", True, "all vectors are finite, masked ones zero", numbers)


def image_coverage(
    n_items: int, n_missing: int, n_unreadable: int, max_missing: float, max_unreadable: float
) -> CheckOutcome:
    """Check the shares of items without an image file, and with one that cannot be decoded."""
    missing, unreadable = n_missing / max(n_items, 1), n_unreadable / max(n_items, 1)
    problems = []
    if missing > max_missing:
        problems.append(f"{missing:.1%} of the items have no image file (limit {max_missing:.1%})")
    if unreadable > max_unreadable:
        problems.append(
            f"{unreadable:.1%} of the items have an unreadable image (limit {max_unreadable:.1%})"
        )
    covered = 1 - missing - unreadable
    return CheckOutcome(
        "image_coverage",
        not problems,
        "; ".join(problems) or f"{covered:.1%} of the items have an image",
        {"missing": n_missing, "unreadable": n_unreadable, "share covered": covered},
    )


def explained_variance(share: float, least: float) -> CheckOutcome:
    """Check the share of the variance that the fused vectors keep."""
    passed = bool(np.isfinite(share)) and share >= least
    sign = ">=" if passed else "<"
    return CheckOutcome(
        "explained_variance",
        passed,
        f"{share:.1%} of the variance is kept {sign} {least:.1%}",
        {"explained variance": float(share), "least": least},
    )


def id_ranges(dataset: CtrDataset) -> CheckOutcome:
    """Check that all ids are real: users from 1, target and history items in the item table."""
    problems = []
    for name, split in dataset.splits.items():
        if len(split) == 0:
            problems.append(f"{name} has no rows")
        elif split.user_id.min() < 1:
            problems.append(f"{name} has user_id {split.user_id.min()} (ids start at 1)")
        unknown = np.setdiff1d(split.item_id, dataset.items.item_id)
        if len(unknown):
            problems.append(f"{name} has item_id {unknown[0]}, which item_feature lacks")
        if len(split) and (
            split.history.min() < 0 or split.history.max() >= len(dataset.histories)
        ):
            problems.append(f"{name} points to a history that does not exist")
        for level in ("likes_level", "views_level"):
            values = getattr(split, level)
            if len(split) and (values.min() < 0 or values.max() > 10):
                problems.append(f"{name} has a {level} outside 0..10")
    unknown = np.setdiff1d(dataset.histories.values, dataset.items.item_id)
    if len(unknown):
        problems.append(f"a history holds item_id {unknown[0]}, which item_feature lacks")
    return CheckOutcome(
        "id_ranges",
        not problems,
        "; ".join(problems) or "all ids and levels are in range",
        {f"{name} rows": len(split) for name, split in dataset.splits.items()}
        | {"items": len(dataset.items), "distinct histories": len(dataset.histories)},
    )


def label_values(dataset: CtrDataset) -> CheckOutcome:
    """Check that labels are 0 or 1, that train and valid have both, and that test has none."""
    problems, numbers = [], {}
    for name in ("train", "valid"):
        label = dataset.splits[name].label
        if label is None:
            problems.append(f"{name} has no labels")
            continue
        values = np.unique(label)
        if not np.isin(values, (0, 1)).all():
            problems.append(f"{name} has a label other than 0 and 1: {values[-1]}")
        elif len(values) < 2:
            problems.append(f"every label of {name} is {values[0] if len(values) else 'absent'}")
        numbers[f"{name} share of clicks"] = float(np.mean(label == 1)) if len(label) else 0.0
    if dataset.test.row_id is None:
        problems.append("test has no ID column")
    elif len(np.unique(dataset.test.row_id)) < len(dataset.test):
        problems.append("test has an ID twice")
    return CheckOutcome(
        "label_values", not problems, "; ".join(problems) or "labels are 0 and 1", numbers
    )


def user_overlap(dataset: CtrDataset) -> CheckOutcome:
    """Report how many valid users are train users: none (disjoint) or all (leave-last-out).

    Anything between the two points to a split that was not made on purpose; it never blocks.
    """
    users = np.unique(dataset.valid.user_id)
    share = float(np.isin(users, dataset.train.user_id).mean()) if len(users) else 0.0
    kind = "disjoint" if share <= 0.01 else "leave-last-out" if share >= 0.99 else "mixed"
    return CheckOutcome(
        "user_overlap",
        kind != "mixed",
        f"{share:.1%} of the valid users stand in train: {kind}"
        + ("; a split is usually by user or by time, not by row" if kind == "mixed" else ""),
        {"share of valid users in train": share, "split": kind},
        severe=False,
    )


def target_in_history(dataset: CtrDataset, most: float) -> CheckOutcome:
    """Check how often a row's target stands in the row's own history, which leaks the label."""
    shares = {}
    for name, split in dataset.splits.items():
        lengths = dataset.histories.lengths[split.history]
        repeated = np.repeat(split.item_id, lengths)
        same = dataset.histories.take(split.history).values == repeated
        rows = np.unique(np.repeat(np.arange(len(split)), lengths)[same])
        shares[name] = len(rows) / max(len(split), 1)
    # A leak in valid would flatter the very AUC that the floor relies on.
    worst = max(("train", "valid"), key=lambda name: shares[name])
    passed = shares[worst] <= most
    return CheckOutcome(
        "target_in_history",
        passed,
        f"{shares[worst]:.2%} of the {worst} rows have their target in their history"
        + ("" if passed else f" (limit {most:.2%}): the history may reveal the label"),
        {f"{name} share": share for name, share in shares.items()},
    )


def auc_floor(
    auc: float, low: float, high: float, floor: float, measured_on: str = ""
) -> CheckOutcome:
    """Check the validation AUC against the floor below which nothing is submitted.

    `measured_on` says which model the AUC is of, where it is not the one that is submitted.
    """
    passed = bool(np.isfinite(auc)) and auc >= floor
    sign = "reaches" if passed else "is below"
    return CheckOutcome(
        "auc_floor",
        passed,
        f"valid AUC {auc:.4f} [{low:.4f}, {high:.4f}] {sign} the floor {floor:.4f}"
        + (f" ({measured_on})" if measured_on else ""),
        {"valid AUC": auc, "low": low, "high": high, "floor": floor},
    )


def submission_valid(problems: list[str], n_rows: int) -> CheckOutcome:
    """Check the written submission: `problems` as found by reading the files back."""
    return CheckOutcome(
        "submission_valid",
        not problems,
        "; ".join(problems) or f"{n_rows} rows in test order, all probabilities in [0, 1]",
        {"rows": n_rows, "problems": len(problems)},
    )

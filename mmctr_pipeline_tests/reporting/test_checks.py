"""Each check passes on good artefacts and fails on each fault that it looks for."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.outliers import without_outliers
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.registry.auc_gate import AucVerdict
from mmctr_pipeline.reporting import checks


def _vectors() -> VectorTable:
    vectors = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    vectors[2] = 0
    return VectorTable(
        item_id=np.array([1, 2, 5, 9], np.int32),
        vectors=vectors,
        present=np.array([True, True, False, True]),
        identity="test",
        provenance={"dim": 3},
    )


def _with_value(row: int, value: float) -> VectorTable:
    table = _vectors()
    vectors = table.vectors.copy()
    vectors[row] = value
    return dataclasses.replace(table, vectors=vectors)


def _split(**changes: np.ndarray | None) -> Split:
    columns: dict[str, np.ndarray | None] = {
        "user_id": np.array([1, 2, 3, 4], np.int32),
        "item_id": np.array([1, 2, 3, 1], np.int32),
        "history": np.array([0, 0, 1, 2], np.int32),
        "likes_level": np.array([0, 10, 5, 5], np.int8),
        "views_level": np.array([0, 10, 5, 5], np.int8),
        "label": np.array([0, 1, 0, 1], np.int8),
    }
    return Split(**{**columns, **changes})


def _dataset(**splits: Split) -> CtrDataset:
    valid = _split(user_id=np.array([11, 12, 13, 14], np.int32))
    test = _split(label=None, row_id=np.array([7, 8, 9, 10], np.int64))
    items = ItemTable(
        ids=np.array([1, 2, 3, 4]),
        item_id=np.array([1, 2, 3, 4], np.int32),
        title=pa.array(["a", "b", None, "d"]),
        tags=Ragged.from_lists([[1], [], [2], [3]]),
        likes_level=np.zeros(4, np.int8),
        views_level=np.zeros(4, np.int8),
    )
    return CtrDataset(
        **{"train": _split(), "valid": valid, "test": test, **splits},
        items=items,
        histories=Ragged.from_lists([[4, 3], [1, 4], []]),
        fingerprint="f",
    )


def test_shape_passes_when_every_item_has_one_row() -> None:
    outcome = checks.vectors_shape(_vectors(), np.array([1, 2, 5, 9]))
    assert outcome.passed
    assert outcome.numbers["rows"] == 4


@pytest.mark.parametrize(
    ("item_id", "word"),
    [([1, 2, 5, 8, 9], "1 items have no row, the first is 8"), ([1, 2, 9], "the first is 5")],
)
def test_shape_fails_on_missing_and_unknown_items(item_id: list[int], word: str) -> None:
    outcome = checks.vectors_shape(_vectors(), np.array(item_id))
    assert not outcome.passed
    assert word in outcome.explanation


def test_shape_fails_if_the_width_differs_from_the_recorded_one() -> None:
    table = _vectors()
    narrowed = dataclasses.replace(table, vectors=table.vectors[:, :2])
    outcome = checks.vectors_shape(narrowed, table.item_id)
    assert not outcome.passed
    assert "2 dimensions, but 3" in outcome.explanation


def test_shape_fails_without_a_required_padding_row() -> None:
    table = _vectors()
    assert not checks.vectors_shape(table, table.item_id, padding_row=True).passed


def test_finite_passes_on_good_vectors() -> None:
    outcome = checks.vectors_finite(_vectors())
    assert outcome.passed
    assert outcome.numbers["smallest norm"] == pytest.approx(np.sqrt(1 + 4 + 9))


@pytest.mark.parametrize(
    ("row", "value", "word"),
    [
        (0, np.nan, "item 1, has a NaN"),
        (1, np.inf, "item 2, has a NaN or an infinity"),
        (3, 0.0, "item 9, is all zeros"),
        (2, 1.0, "item 5, is not zero"),
    ],
)
def test_finite_fails_on_each_fault_and_names_the_item(row: int, value: float, word: str) -> None:
    outcome = checks.vectors_finite(_with_value(row, value))
    assert not outcome.passed
    assert word in outcome.explanation


def test_finite_fails_when_all_vectors_are_equal() -> None:
    table = _vectors()
    vectors = np.where(table.present[:, None], np.float32(2), np.float32(0))
    assert not checks.vectors_finite(dataclasses.replace(table, vectors=vectors)).passed


def _outlying(n_wild: int) -> VectorTable:
    vectors = np.ones((200, 3), np.float32)
    vectors[:n_wild] = 1e6
    ids = np.arange(1, 201, dtype=np.int32)
    return VectorTable(ids, vectors, np.ones(200, bool), "test")


@pytest.mark.parametrize(
    "masked", [False, True], ids=["outliers in the table", "outliers already masked"]
)
@pytest.mark.parametrize(("n_wild", "passes"), [(0, True), (2, True), (3, False)])
def test_norm_outliers_enforces_the_limit_and_names_the_items(
    n_wild: int, passes: bool, masked: bool
) -> None:
    table = _outlying(n_wild)
    outcome = checks.norm_outliers(without_outliers(table, "test") if masked else table, 0.01)
    assert outcome.passed is passes
    assert outcome.numbers["outliers"] == n_wild
    assert ("item 1 (1.73e+06)" in outcome.explanation) == (n_wild > 0)
    assert ("raise checks.max_outlier_vectors" in outcome.explanation) == (not passes)


@pytest.mark.parametrize(
    ("missing", "unreadable", "passes"), [(20, 1, True), (21, 1, False), (20, 2, False)]
)
def test_image_coverage_enforces_both_limits(missing: int, unreadable: int, passes: bool) -> None:
    outcome = checks.image_coverage(100, missing, unreadable, 0.2, 0.01)
    assert outcome.passed is passes


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (0.49, False), (float("nan"), False)])
def test_explained_variance_enforces_its_limit(share: float, passes: bool) -> None:
    outcome = checks.explained_variance(share, 0.5, "pca")
    assert (outcome.passed, outcome.severe) == (passes, True)


def test_explained_variance_warns_if_too_little_of_a_modality_is_kept() -> None:
    drowned = checks.explained_variance(0.9, 0.5, "pca", {"text": 0.107, "image": 0.915})
    assert (drowned.passed, drowned.severe) == (False, False)
    assert "the share is 10.7% for titles and 91.5% for covers" in drowned.explanation
    assert "The fused vectors keep too little of the titles." in drowned.explanation
    assert drowned.numbers["explained variance of titles"] == 0.107
    assert checks.explained_variance(0.9, 0.5, "pca", {"text": 0.8, "image": 0.95}).passed
    assert checks.explained_variance(0.9, 0.5, "pca", {"text": 0.9}).passed
    # If the total is below the limit, too, the check reports an error instead of a warning.
    assert checks.explained_variance(0.4, 0.5, "pca", {"text": 0.1, "image": 0.9}).severe


@pytest.mark.parametrize(
    ("method", "fix"),
    [
        ("pca", "set fusion.method to pca_each, which fits titles and covers separately"),
        ("attention", "set fusion.method to pca_each, which fits titles and covers separately"),
        ("pca_each", "raise fusion.dim"),
        ("mine.Fusion", "raise fusion.dim, or let mine.Fusion keep more of the titles"),
    ],
)
def test_explained_variance_advises_what_helps_the_method(method: str, fix: str) -> None:
    outcome = checks.explained_variance(0.9, 0.5, method, {"text": 0.5, "image": 0.9})
    assert outcome.explanation.endswith(f" keep too little of the titles. Fix: {fix}")


def test_id_ranges_pass_on_good_data() -> None:
    assert checks.id_ranges(_dataset()).passed


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"user_id": np.array([0, 1, 2, 3], np.int32)}, "user_id 0"),
        ({"item_id": np.array([1, 2, 3, 77], np.int32)}, "item_id 77"),
        ({"history": np.array([0, 0, 1, 3], np.int32)}, "history 3 (no such history)"),
        ({"likes_level": np.array([0, 11, 0, 0], np.int8)}, "likes_level 11"),
        ({"views_level": np.array([0, -1, 0, 0], np.int8)}, "views_level -1"),
    ],
)
def test_id_ranges_fail_on_each_fault(changes: dict[str, np.ndarray], word: str) -> None:
    outcome = checks.id_ranges(_dataset(train=_split(**changes)))
    assert not outcome.passed
    assert word in outcome.explanation


def test_id_ranges_fail_on_an_unknown_item_in_a_history() -> None:
    dataset = dataclasses.replace(_dataset(), histories=Ragged.from_lists([[4], [66], []]))
    outcome = checks.id_ranges(dataset)
    assert not outcome.passed
    assert "66" in outcome.explanation


@pytest.mark.parametrize(
    "label", [np.array([0, 1, 2, 1], np.int8), np.ones(4, np.int8), np.zeros(4, np.int8), None]
)
def test_label_values_fail_on_other_values_one_class_and_no_labels(
    label: np.ndarray | None,
) -> None:
    assert checks.label_values(_dataset()).passed
    assert not checks.label_values(_dataset(valid=_split(label=label))).passed


def test_label_values_name_the_value_that_is_neither_0_nor_1() -> None:
    dataset = _dataset(valid=_split(label=np.array([0, 1, -1, 1], np.int8)))
    assert "a label other than 0 and 1: -1" in checks.label_values(dataset).explanation


def test_label_values_fail_on_a_repeated_test_id() -> None:
    test = _split(label=None, row_id=np.array([7, 8, 8, 9], np.int64))
    assert not checks.label_values(_dataset(test=test)).passed


@pytest.mark.parametrize(
    ("users", "passes", "kind"),
    [
        ([11, 12, 13, 14], True, "disjoint"),
        ([1, 2, 3, 4], True, "leave-last-out"),
        ([1, 2, 13, 14], False, "mixed"),
    ],
)
def test_user_overlap_warns_about_a_mixed_split(users: list[int], passes: bool, kind: str) -> None:
    outcome = checks.user_overlap(_dataset(valid=_split(user_id=np.array(users, np.int32))))
    assert (outcome.passed, outcome.numbers["split"]) == (passes, kind)
    assert not outcome.severe


def test_unseen_values_are_counted_by_column_and_warn_about_new_items() -> None:
    dataset = _dataset(valid=_split(item_id=np.array([1, 2, 99, 99], np.int32)))
    train = dataclasses.replace(dataset.train, item_id=np.array([1, 1, 2, 2], np.int32))
    outcome = checks.unseen_values(dataclasses.replace(dataset, train=train))
    assert outcome.passed
    assert outcome.numbers["valid"]["item_id"] == 2
    assert "item_id 50.0%" in outcome.explanation
    cold = dataclasses.replace(train, item_id=np.array([1, 1, 1, 1], np.int32))
    outcome = checks.unseen_values(dataclasses.replace(dataset, train=cold))
    assert (outcome.passed, outcome.severe) == (False, False)
    assert "item_id 75.0%" in outcome.explanation


def test_target_in_history_counts_each_row_once() -> None:
    dataset = dataclasses.replace(
        _dataset(valid=_split(item_id=np.array([2, 2, 3, 3], np.int32))),
        histories=Ragged.from_lists([[1, 1, 4], [4], []]),
    )
    # The train rows are (item 1, history 0), (2, 0), (3, 1) and (1, 2). Only the first has its
    # target in its history, and no valid row has.
    assert checks.target_in_history(dataset, 0.25).passed
    outcome = checks.target_in_history(dataset, 0.2)
    assert not outcome.passed
    assert outcome.numbers["train share"] == pytest.approx(0.25)


def test_target_in_history_fails_on_a_leak_only_in_valid() -> None:
    leaking = _split(item_id=np.array([4, 4, 1, 1], np.int32), history=np.zeros(4, np.int32))
    outcome = checks.target_in_history(_dataset(valid=leaking), 0.25)
    assert not outcome.passed
    assert "valid rows" in outcome.explanation


def test_auc_floor_repeats_the_verdict() -> None:
    outcome = checks.auc_floor(AucVerdict(False, "valid AUC 0.5 is below", {"floor": 0.6}))
    assert (outcome.passed, outcome.explanation) == (False, "valid AUC 0.5 is below")
    assert outcome.numbers == {"floor": 0.6}


def test_submission_valid_lists_the_problems() -> None:
    assert checks.submission_valid([], 5).passed
    outcome = checks.submission_valid(["row 3: ID 9 instead of 4"], 5)
    assert not outcome.passed
    assert "row 3" in outcome.explanation

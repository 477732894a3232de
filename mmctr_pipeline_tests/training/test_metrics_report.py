"""The metrics report counts popularity on train rows and buckets valid rows by it."""

import dataclasses
import json

import numpy as np
import pytest

from mmctr_pipeline.data.dataset import CtrDataset, Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.metrics import (
    MetricError,
    auc,
    auc_interval,
    calibration,
    grouped_auc,
    log_loss,
)
from mmctr_pipeline.training.metrics_report import MetricsReport, metrics_report
from mmctr_pipeline_tests.training.small_sample import small_sample

COLD_ITEMS = (3, 17, 18, 40)


def uneven_sample() -> tuple[CtrDataset, np.ndarray]:
    """Return a dataset with uneven popularities and cold items, and scores of its valid rows.

    Histories of valid users contain cold items too.
    """
    dataset, _ = small_sample(n_train=600, n_valid=900)
    generator = np.random.default_rng(3)
    train = dataset.train
    in_train = set(train.history.tolist())
    lists = [h.tolist() for h in dataset.histories]
    lists = [
        [item for item in h if item not in COLD_ITEMS] if n in in_train else [*h, 40]
        for n, h in enumerate(lists)
    ]
    item_id = (1 + 60 * generator.random(len(train)) ** 3).astype(np.int32)
    item_id[np.isin(item_id, COLD_ITEMS)] = 1
    scores = generator.random(len(dataset.valid)).astype(np.float32)
    changed = dataclasses.replace(
        dataset,
        train=dataclasses.replace(train, item_id=item_id),
        histories=Ragged.from_lists(lists),
    )
    return changed, scores


def report_on(dataset: CtrDataset, scores: np.ndarray) -> MetricsReport:
    return metrics_report(dataset.valid, scores, dataset.train, dataset.histories)


def plain_counts(dataset: CtrDataset) -> list[int]:
    counts = dict.fromkeys(range(61), 0)
    for target, history in zip(dataset.train.item_id, dataset.train.history, strict=True):
        for item in (target, *dataset.histories[history]):
            counts[int(item)] += 1
    return [counts[int(item)] for item in dataset.valid.item_id]


def test_buckets_are_cold_rows_and_thirds_of_the_rest() -> None:
    dataset, scores = uneven_sample()
    counts = np.array(plain_counts(dataset))
    label = dataset.valid.label
    assert label is not None
    cold, *warm = report_on(dataset, scores).by_popularity
    assert cold.name == "cold"
    assert set(dataset.valid.item_id[counts == 0].tolist()) == set(COLD_ITEMS)
    assert (cold.least, cold.most, cold.n_rows) == (0, 0, (counts == 0).sum())

    assert [bucket.name for bucket in warm] == ["rare", "medium", "popular"]
    edge = 1
    for bucket in warm:
        assert edge <= bucket.least <= bucket.most
        edge = bucket.most + 1
    for bucket in (cold, *warm):
        rows = (counts >= bucket.least) & (counts <= bucket.most)
        assert bucket.n_rows == rows.sum()
        assert bucket.n_positive == label[rows].sum()
        assert bucket.auc == auc_interval(label[rows], scores[rows])
    assert sum(bucket.n_rows for bucket in (cold, *warm)) == len(counts)
    # Thirds, except that the rows of one item stay together.
    largest_item = np.bincount(dataset.valid.item_id).max()
    for bucket in warm:
        assert abs(bucket.n_rows - (counts > 0).sum() / 3) <= largest_item


def test_valid_and_test_rows_do_not_count_as_popularity() -> None:
    dataset, scores = uneven_sample()
    before = report_on(dataset, scores)
    # Item 40 is in the history of every valid user, but stays cold.
    assert all(40 in history for history in list(dataset.histories)[310:])
    in_train = set(dataset.train.history.tolist())
    lists = [
        list(history) if n in in_train else [*history, 3, 3]
        for n, history in enumerate(dataset.histories)
    ]
    changed = dataclasses.replace(dataset, histories=Ragged.from_lists(lists))
    assert report_on(changed, scores) == before


def test_the_other_fields_equal_the_metrics() -> None:
    dataset, scores = uneven_sample()
    label, report = dataset.valid.label, report_on(dataset, scores)
    assert label is not None
    assert report.auc.auc == pytest.approx(auc(label, scores), abs=1e-12)
    assert report.log_loss == log_loss(label, scores)
    assert report.by_user == grouped_auc(label, scores, dataset.valid.user_id)
    assert report.by_user.auc != pytest.approx(report.auc.auc, abs=1e-6)
    assert report.calibration == calibration(label, scores, 15)


def split_of(labels: list[int], items: list[int]) -> Split:
    dataset, _ = small_sample(n_train=100)
    rows = dataset.valid.take(np.arange(len(labels)))
    return dataclasses.replace(
        rows, label=np.array(labels, np.int8), item_id=np.array(items, np.int32)
    )


def test_a_bucket_with_one_class_or_no_rows_has_no_auc() -> None:
    train = split_of([0, 1, 0, 1], [5, 5, 6, 7])
    train = dataclasses.replace(train, history=np.zeros(4, np.int32))
    histories = Ragged.from_lists([[8]])
    valid = dataclasses.replace(split_of([1, 1, 0, 1], [9, 9, 5, 5]), history=train.history)
    scores = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    cold, warm = metrics_report(valid, scores, train, histories).by_popularity
    assert (cold.n_rows, cold.n_positive, cold.auc) == (2, 2, None)
    assert warm.auc is not None
    assert (warm.n_rows, warm.least, warm.most, warm.auc.auc) == (2, 2, 2, 1.0)

    none_cold = dataclasses.replace(valid, item_id=np.array([5, 6, 8, 8], np.int32))
    cold = metrics_report(none_cold, scores, train, histories).by_popularity[0]
    assert (cold.name, cold.n_rows, cold.auc) == ("cold", 0, None)
    all_cold = dataclasses.replace(valid, item_id=np.full(4, 99_999, np.int32))
    (cold,) = metrics_report(all_cold, scores, train, histories).by_popularity
    assert cold.n_rows == 4
    assert cold.auc is not None


def test_the_mapping_survives_json() -> None:
    dataset, scores = uneven_sample()
    plain = report_on(dataset, scores).to_mapping()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["by_popularity"][0]["name"] == "cold"
    assert len(plain["calibration"]["bins"]) == 15
    assert plain["auc"]["n_positive"] + plain["auc"]["n_negative"] == 900


def test_rows_without_labels_are_refused() -> None:
    dataset, scores = uneven_sample()
    with pytest.raises(MetricError, match="no labels"):
        metrics_report(dataset.test, scores, dataset.train, dataset.histories)

"""Item features are joined by id; batches have the right rows, histories and order."""

import dataclasses

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import DinConfig, FeatureConfig
from mmctr_pipeline.training.batch_source import (
    MAX_TAGS,
    BatchSource,
    TrainingDataError,
    feature_spec,
    item_features,
)
from mmctr_pipeline_tests.training.small_sample import SMALL_MODEL, VECTOR_DIM, small_sample

CPU = torch.device("cpu")
BOTH_MODALITIES = DinConfig(features=FeatureConfig(text_vectors=True, image_vectors=True))


def source_of(
    dataset: CtrDataset, vectors: ItemVectors, split: str = "train", max_history: int | None = None
) -> BatchSource:
    items = item_features(dataset.items, vectors, SMALL_MODEL)
    return BatchSource(dataset.splits[split], dataset.histories, items, CPU, max_history)


def plain_rows(batch: Batch) -> list[tuple]:
    starts = batch.history_offsets.tolist()
    assert batch.label_B is not None
    shared = batch.history_row_B
    history = list(range(len(batch))) if shared is None else shared.tolist()
    return [
        (
            int(batch.user_id_B[row]),
            int(batch.item_id_B[row]),
            int(batch.likes_level_B[row]),
            int(batch.views_level_B[row]),
            tuple(batch.history_T[starts[history[row]] : starts[history[row] + 1]].tolist()),
            int(batch.label_B[row]),
        )
        for row in range(len(batch))
    ]


def expected_rows(dataset: CtrDataset) -> list[tuple]:
    split = dataset.train
    assert split.label is not None
    return [
        (
            int(split.user_id[row]),
            int(split.item_id[row]),
            int(split.likes_level[row]),
            int(split.views_level[row]),
            tuple(dataset.histories[split.history[row]].tolist()),
            int(split.label[row]),
        )
        for row in range(len(split))
    ]


def test_in_order_yields_every_row_with_its_own_history() -> None:
    dataset, vectors = small_sample(n_train=103)
    batches = list(source_of(dataset, vectors).in_order(25))
    assert [len(batch) for batch in batches] == [25, 25, 25, 25, 3]
    assert [row for batch in batches for row in plain_rows(batch)] == expected_rows(dataset)


@pytest.mark.parametrize(("batch_size", "step"), [(25, 64), (400, 100)])
def test_batches_have_few_shapes(batch_size: int, step: int) -> None:
    """Positions are padded to a multiple of 64, or of a quarter of the batch size if larger."""
    dataset, vectors = small_sample(n_train=10 * batch_size)
    batches = list(source_of(dataset, vectors).shuffled(batch_size, 1, 1))
    for batch in batches:
        n_real = int(batch.history_offsets[-1])
        n_spare = len(batch.history_T) - n_real
        assert batch.shape == (batch_size, len(batch.history_T))
        assert len(batch.history_T) % step == 0
        assert 0 <= n_spare < step
        assert batch.history_T[n_real:].tolist() == [0] * n_spare
    assert len({int(batch.history_offsets[-1]) for batch in batches}) > 5
    assert len({batch.shape for batch in batches}) <= 3


def test_a_batch_has_the_documented_types() -> None:
    dataset, vectors = small_sample(n_train=20)
    batch = next(source_of(dataset, vectors).in_order(8))
    for name in ("user_id_B", "item_id_B", "likes_level_B", "views_level_B"):
        assert getattr(batch, name).dtype == torch.int64
    assert (batch.history_T.dtype, batch.history_offsets.dtype) == (torch.int64, torch.int64)
    assert batch.label_B is not None
    assert batch.label_B.dtype == torch.float32


def test_batches_of_the_test_split_have_no_labels() -> None:
    dataset, vectors = small_sample()
    assert next(source_of(dataset, vectors, "test").in_order(8)).label_B is None


def test_shuffled_is_a_permutation_that_follows_from_seed_and_epoch() -> None:
    dataset, vectors = small_sample(n_train=103)
    source = source_of(dataset, vectors)

    def order(seed: int, epoch: int) -> list[tuple]:
        return [row for batch in source.shuffled(25, seed, epoch) for row in plain_rows(batch)]

    first = order(1, 1)
    assert sorted(first) == sorted(expected_rows(dataset))
    assert first == order(1, 1)
    assert first != order(1, 2)
    assert first != order(2, 1)


def test_shuffling_leaves_the_global_random_state_alone() -> None:
    dataset, vectors = small_sample(n_train=50)
    before = torch.get_rng_state()
    list(source_of(dataset, vectors).shuffled(10, 1, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("n_rows", "sizes"), [(52, [25, 25, 2]), (51, [25, 25]), (50, [25, 25])])
def test_a_last_batch_with_a_single_row_is_dropped(n_rows: int, sizes: list[int]) -> None:
    dataset, vectors = small_sample(n_train=n_rows)
    assert [len(batch) for batch in source_of(dataset, vectors).shuffled(25, 1, 1)] == sizes


def test_read_only_arrays_are_accepted() -> None:
    dataset, vectors = small_sample(n_train=30)
    assert dataset.train.label is not None
    dataset.train.label.setflags(write=False)
    dataset.histories.values.setflags(write=False)
    assert len(next(source_of(dataset, vectors).in_order(30))) == 30


def test_long_histories_are_cut_to_their_newest_items() -> None:
    dataset, vectors = small_sample(n_train=60)
    assert dataset.histories.lengths.max() > 3
    source = source_of(dataset, vectors, max_history=3)
    expected = [(*row[:4], row[4][-3:], row[5]) for row in expected_rows(dataset)]
    assert [row for batch in source.in_order(25) for row in plain_rows(batch)] == expected


def test_consecutive_rows_with_the_same_history_share_it() -> None:
    dataset, vectors = small_sample(n_train=60)
    by_user = np.argsort(dataset.train.history, kind="stable")
    dataset = dataclasses.replace(dataset, train=dataset.train.take(by_user))
    batches = list(source_of(dataset, vectors).in_order(60, share=True))
    n_histories = len(np.unique(dataset.train.history))
    assert len(batches[0].history_offsets) - 1 == n_histories < 60
    assert [row for batch in batches for row in plain_rows(batch)] == expected_rows(dataset)
    with pytest.raises(ValueError, match="share histories"):
        batches[0].split(2)


def test_rows_that_all_have_the_same_history_need_no_spare_position() -> None:
    dataset, vectors = small_sample(n_train=60)
    assert not source_of(dataset, vectors).has_one_history
    same = dataclasses.replace(dataset.train, history=np.full(60, 3, np.int32))
    dataset = dataclasses.replace(dataset, train=same)
    source = source_of(dataset, vectors)
    assert source.has_one_history
    batches = list(source.in_order(25, share=True))
    assert [row for batch in batches for row in plain_rows(batch)] == expected_rows(dataset)
    n_items = len(dataset.histories[3])
    assert [batch.shape for batch in batches] == [(25, n_items), (25, n_items), (10, n_items)]


def four_items() -> ItemTable:
    dataset, _ = small_sample(n_items=10)
    return dataclasses.replace(
        dataset.items,
        ids=np.array([2, 5, 6, 9]),
        item_id=np.array([2, 5, 6, 9], np.int32),
        likes_level=np.array([1, 2, 3, 4], np.int8),
        views_level=np.array([5, 6, 7, 8], np.int8),
        tags=Ragged.from_lists([[3], [], [4, 1, 2], [9, 8]]),
    )


def test_item_features_are_joined_by_id() -> None:
    vectors = VectorTable(
        item_id=np.array([0, 3, 5, 9], np.int32),
        vectors=np.array([[9, 9], [3, 3], [5, 5], [0, 0]], np.float32),
        present=np.array([True, True, True, False]),
        identity="some vectors",
    )
    features = item_features(four_items(), ItemVectors(vectors), SMALL_MODEL)
    assert features.vectors_ID.shape == (10, 2)
    assert features.present_I.nonzero().flatten().tolist() == [5]
    assert features.vectors_ID[5].tolist() == [5, 5]
    assert features.vectors_ID.sum() == 10
    assert features.views_level_I.tolist() == [0, 0, 5, 0, 0, 6, 7, 0, 0, 8]
    assert features.likes_level_I.tolist() == [0, 0, 1, 0, 0, 2, 3, 0, 0, 4]
    assert features.tags_IK[[2, 5, 6, 9]].tolist() == [[3, 0, 0], [0, 0, 0], [4, 1, 2], [9, 8, 0]]
    assert features.tags_IK.sum() == 27


def test_item_features_are_at_the_rows_of_mapped_ids() -> None:
    items = dataclasses.replace(
        four_items(), ids=np.array(["a", "b", "c", "d"]), item_id=np.array([3, 1, 4, 2], np.int32)
    )
    table = VectorTable(
        item_id=np.array(["", "b", "d"]),
        vectors=np.array([[0], [7], [8]], np.float32),
        present=np.array([False, True, True]),
        identity="some vectors",
    )
    features = item_features(items, ItemVectors(table), SMALL_MODEL)
    assert features.vectors_ID.tolist() == [[0], [7], [8], [0], [0]]
    assert features.present_I.tolist() == [False, True, True, False, False]
    assert features.likes_level_I.tolist() == [0, 2, 4, 1, 3]
    assert features.tags_IK.tolist() == [[0] * 3, [0] * 3, [9, 8, 0], [3, 0, 0], [4, 1, 2]]


def test_only_the_first_tags_are_kept() -> None:
    dataset, vectors = small_sample()
    tags = Ragged.from_lists([list(range(1, 30)), *[[5]] * (len(dataset.items) - 1)])
    items = dataclasses.replace(dataset.items, tags=tags)
    features = item_features(items, vectors, SMALL_MODEL)
    assert features.tags_IK[1].tolist() == list(range(1, MAX_TAGS + 1))
    assert features.tags_IK[2].tolist() == [5, *[0] * (MAX_TAGS - 1)]


def test_a_modality_is_included_if_the_model_reads_it_and_some_item_has_it() -> None:
    dataset, vectors = small_sample(n_items=10)
    fused = vectors.fused
    absent = dataclasses.replace(fused, present=np.zeros_like(fused.present))
    given = ItemVectors(fused, fused, absent)
    features = item_features(dataset.items, given, BOTH_MODALITIES)
    for text, expected in zip(
        features.vectors_of("text"), features.vectors_of("fused"), strict=True
    ):
        assert torch.equal(text, expected)
    with pytest.raises(ValueError, match="reads image vectors, but the items have none"):
        features.vectors_of("image")
    with pytest.raises(ValueError, match="reads text vectors, but the items have none"):
        item_features(dataset.items, given, SMALL_MODEL).vectors_of("text")

    spec = feature_spec(dataset, given, BOTH_MODALITIES)
    assert (spec.vector_dim, spec.text_dim, spec.image_dim) == (VECTOR_DIM, VECTOR_DIM, 0)
    assert feature_spec(dataset, given, SMALL_MODEL).text_dim == 0


def test_a_modality_that_the_model_reads_but_was_not_given_is_refused() -> None:
    dataset, vectors = small_sample(n_items=10)
    only_text = ItemVectors(vectors.fused, text=vectors.fused)
    with pytest.raises(TrainingDataError, match="din reads image vectors, which were not given"):
        item_features(dataset.items, only_text, BOTH_MODALITIES)


def test_non_finite_vectors_are_refused_and_the_item_is_named() -> None:
    dataset, vectors = small_sample()
    vectors.fused.vectors[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 item vectors of small-sample-vectors .* item 7"):
        item_features(dataset.items, vectors, SMALL_MODEL)


def test_vectors_of_another_catalogue_are_refused() -> None:
    dataset, vectors = small_sample()
    foreign = dataclasses.replace(vectors.fused, item_id=vectors.fused.item_id + 10_000)
    with pytest.raises(ValueError, match="none of the 60 items has a vector"):
        item_features(dataset.items, ItemVectors(foreign), SMALL_MODEL)

"""The features of a batch equal those of plain look-ups, one item at a time."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.base import initialise
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.features import FeatureEmbedding, Features
from mmctr_pipeline_tests.models.features_case import (
    EVERYTHING,
    NOTHING,
    UNKNOWN_ITEM,
    UNKNOWN_USER,
    all_item_features,
    batch_of,
    fitted,
    ids_of,
    standardised,
)
from mmctr_pipeline_tests.models.plain_din import known_ids, plain_context, plain_item_features
from mmctr_pipeline_tests.models.zoo import SPEC, random_batch, random_items, random_train_rows


def a_batch(n_rows: int = 20) -> Batch:
    torch.manual_seed(3)
    return random_batch(n_rows, random_items())


def with_only(part: str, batch: Batch) -> tuple[FeatureEmbedding, Features]:
    """Return fitted features with one part switched on, and their output for a batch."""
    features = fitted(dataclasses.replace(NOTHING, **{part: True}), batch.items)
    return features, features(batch)


def test_an_item_id_reads_its_own_row_or_the_unknown_row() -> None:
    batch = a_batch()
    features, output = with_only("item_id", batch)
    known, _ = known_ids()
    rows = [item if item in known else UNKNOWN_ITEM for item in ids_of(batch)]
    assert set(rows) > {UNKNOWN_ITEM}
    assert features.item_id is not None
    assert torch.equal(all_item_features(output), features.item_id.weight[rows])
    assert output.context_BC.shape == (len(batch), 0)


def test_the_tags_of_an_item_give_the_mean_of_their_rows() -> None:
    batch = a_batch()
    features, output = with_only("item_tags", batch)
    assert features.tags is not None
    seen = set()
    for item, vector in zip(ids_of(batch), all_item_features(output), strict=True):
        tags = [tag for tag in batch.items.tags_IK[item].tolist() if tag != 0]
        seen.add(len(tags))
        expected = features.tags.weight[tags].mean(0) if tags else torch.zeros(5)
        torch.testing.assert_close(vector, expected)
    assert seen >= {2, 3}


def test_tags_beyond_the_table_are_ignored_and_no_tags_give_zero() -> None:
    items = random_items()
    tags_IK = torch.zeros_like(items.tags_IK)
    tags_IK[1] = torch.tensor([4, SPEC.n_tags + 3, 0])
    tags_IK[2] = torch.tensor([SPEC.n_tags, 0, 0])
    items = dataclasses.replace(items, tags_IK=tags_IK)
    features = fitted(dataclasses.replace(NOTHING, item_tags=True), items)
    assert features.tags is not None
    output = features(batch_of(items, [1, 2, 3], [[], [], []])).item_BD
    assert torch.equal(output[0], features.tags.weight[4])
    assert not output[1:].any()


def test_item_levels_come_from_the_item_table() -> None:
    batch = a_batch()
    features, output = with_only("item_levels", batch)
    ids = ids_of(batch)
    likes, views = batch.items.likes_level_I[ids], batch.items.views_level_I[ids]
    assert features.item_likes is not None
    assert features.item_views is not None
    expected = [features.item_likes.weight[likes], features.item_views.weight[views]]
    assert torch.equal(all_item_features(output), torch.cat(expected, dim=1))


@pytest.mark.parametrize("kind", ["fused", "text", "image"])
def test_vectors_are_standardised_over_the_items_that_have_one(kind: str) -> None:
    batch = a_batch()
    _, output = with_only(f"{kind}_vectors", batch)
    expected = torch.stack([standardised(batch.items, kind, item) for item in ids_of(batch)])
    torch.testing.assert_close(all_item_features(output), expected, atol=1e-5, rtol=0)
    assert (expected == 0).all(1).any()


@pytest.mark.parametrize("kind", ["fused", "text", "image"])
def test_projected_vectors_are_multiplied_by_a_learned_matrix(kind: str) -> None:
    batch = a_batch()
    config = dataclasses.replace(NOTHING, **{f"{kind}_vectors": True}, vector_projection=True)
    features = fitted(config, batch.items)
    vectors_ID, present_I = batch.items.vectors_of(kind)
    item_N = ids_of(batch)
    listed_N = [item if item < len(present_I) else 0 for item in item_N]
    expected = vectors_ID[listed_N] @ features.vector_layers[kind].matrix.weight.T
    output = all_item_features(features(batch))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    assert not present_I[listed_N].all()
    assert not output[~present_I[listed_N]].any()
    output.sum().backward()
    assert features.vector_layers[kind].matrix.weight.grad.any()


def test_a_user_id_reads_its_own_row_or_the_unknown_row() -> None:
    batch = dataclasses.replace(a_batch(), user_id_B=torch.arange(1, 21) * 2)
    features = fitted(dataclasses.replace(NOTHING, item_id=True, user_id=True), batch.items)
    assert features.user_id is not None
    _, known = known_ids()
    users = [user if user in known else UNKNOWN_USER for user in range(2, 41, 2)]
    assert set(users) > {UNKNOWN_USER}
    assert torch.equal(features(batch).context_BC, features.user_id.weight[users])


def test_context_levels_come_from_the_batch() -> None:
    batch = a_batch()
    config = dataclasses.replace(NOTHING, item_id=True, context_levels=True)
    features = fitted(config, batch.items)
    assert features.row_likes is not None
    assert features.row_views is not None
    likes_BD = features.row_likes.weight[batch.likes_level_B]
    views_BD = features.row_views.weight[batch.views_level_B]
    assert torch.equal(features(batch).context_BC, torch.cat([likes_BD, views_BD], dim=1))


def test_parts_have_the_documented_order_and_width() -> None:
    batch = a_batch()
    features = fitted(EVERYTHING, batch.items)
    output = features(batch)
    # Items: id, tags, two levels; fused, title and cover vectors. Context: user, two levels.
    assert features.item_dim == output.item_BD.shape[1] == 5 + 5 + 3 + 3 + 12 + 10 + 6
    assert features.context_dim == output.context_BC.shape[1] == 5 + 3 + 3
    expected = plain_item_features(features, batch.items, ids_of(batch))
    torch.testing.assert_close(all_item_features(output), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.context_BC, plain_context(features, batch))


def test_an_item_has_the_same_features_as_target_and_in_any_history() -> None:
    items = random_items()
    features = fitted(EVERYTHING, items)
    output = features(batch_of(items, [7, 3, 7], [[3, 7], [], [7, 3, 3]]))
    three_D, seven_D = output.item_BD[1], output.item_BD[0]
    assert not torch.equal(three_D, seven_D)
    expected = [seven_D, three_D, seven_D, three_D, seven_D, seven_D, three_D, three_D]
    assert torch.equal(all_item_features(output), torch.stack(expected))


@pytest.mark.parametrize("vector_projection", [False, True])
def test_gradients_equal_those_of_plain_look_ups(vector_projection: bool) -> None:
    batch = a_batch()
    config = dataclasses.replace(EVERYTHING, vector_projection=vector_projection)
    features = fitted(config, batch.items).double()
    weights = list(features.parameters())
    direction_ND = torch.randn(len(ids_of(batch)), features.item_dim, dtype=torch.float64)
    direction_BC = torch.randn(len(batch), features.context_dim, dtype=torch.float64)
    output = features(batch)
    ours = torch.autograd.grad(
        (all_item_features(output) * direction_ND).sum() + (output.context_BC * direction_BC).sum(),
        weights,
    )
    plain_ND = plain_item_features(features, batch.items, ids_of(batch))
    plain_BC = plain_context(features, batch)
    theirs = torch.autograd.grad(
        (plain_ND * direction_ND).sum() + (plain_BC * direction_BC).sum(), weights
    )
    for our, their in zip(ours, theirs, strict=True):
        assert our.any()
        torch.testing.assert_close(our, their, atol=1e-10, rtol=0)


def test_spare_positions_change_no_other_feature() -> None:
    batch = a_batch()
    features = fitted(EVERYTHING, batch.items)
    spare = dataclasses.replace(
        batch, history_T=torch.cat([batch.history_T, torch.zeros(9, dtype=torch.int64)])
    )
    output, padded = features(batch), features(spare)
    assert torch.equal(padded.item_BD, output.item_BD)
    assert torch.equal(padded.history_TD[:-9], output.history_TD)
    assert padded.history_TD.shape == (len(batch.history_T) + 9, features.item_dim)


def test_kinds_of_vectors_that_no_item_has_are_left_out() -> None:
    batch = a_batch()
    items = dataclasses.replace(batch.items, text_vectors_ID=None, text_present_I=None)
    config = dataclasses.replace(NOTHING, text_vectors=True, image_vectors=True)
    features = FeatureEmbedding(config, dataclasses.replace(SPEC, text_dim=0))
    features.fit(items, *random_train_rows())
    output = features(dataclasses.replace(batch, items=items))
    assert features.item_dim == output.item_BD.shape[1] == SPEC.image_dim


def test_missing_vectors_that_the_model_reads_are_refused() -> None:
    batch = a_batch()
    features = fitted(dataclasses.replace(NOTHING, text_vectors=True), batch.items)
    items = dataclasses.replace(batch.items, text_vectors_ID=None, text_present_I=None)
    with pytest.raises(ValueError, match="the model reads text vectors, but the items have none"):
        features(dataclasses.replace(batch, items=items))


def test_fitted_statistics_are_saved_with_the_weights() -> None:
    batch = a_batch()
    features = fitted(EVERYTHING, batch.items)
    again = FeatureEmbedding(EVERYTHING, SPEC).eval()
    initialise(again)
    again.load_state_dict(features.state_dict())
    assert torch.equal(all_item_features(again(batch)), all_item_features(features(batch)))
    assert torch.equal(again(batch).context_BC, features(batch).context_BC)


@pytest.mark.parametrize(("multiple_of", "n_zeros"), [(1, 0), (4, 2), (7, 0), (8, 2)])
def test_zeros_pad_the_item_features_to_a_multiple(multiple_of: int, n_zeros: int) -> None:
    batch = a_batch()
    config = dataclasses.replace(NOTHING, item_id=True, embedding_dim=14)
    torch.manual_seed(0)
    expected = FeatureEmbedding(config, SPEC)(batch)
    torch.manual_seed(0)
    features = FeatureEmbedding(config, SPEC, multiple_of)
    output = features(batch)
    assert features.item_dim == 14 + n_zeros
    for actual_ND, expected_ND in (
        (output.item_BD, expected.item_BD),
        (output.history_TD, expected.history_TD),
    ):
        assert torch.equal(actual_ND[:, :14], expected_ND)
        assert actual_ND.shape[1] == features.item_dim
        assert not actual_ND[:, 14:].any()

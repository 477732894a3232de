"""The unknown row: which ids use it, when training uses it for known ids, and its gradient."""

import dataclasses

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.features import FeatureEmbedding
from mmctr_pipeline_tests.models.features_case import (
    NOTHING,
    UNKNOWN_ITEM,
    UNKNOWN_USER,
    all_item_features,
    batch_of,
    fitted,
    ids_of,
    standardised,
)
from mmctr_pipeline_tests.models.plain_din import known_ids
from mmctr_pipeline_tests.models.zoo import SPEC, random_items, random_train_rows


def test_cold_and_new_items_keep_their_other_features() -> None:
    items = random_items()
    config = dataclasses.replace(NOTHING, item_id=True, fused_vectors=True)
    features = fitted(config, items)
    # `cold` has a row in the model, but is in no train row. The others have no row in the model;
    # only one of them is in the item table.
    cold, in_item_table, nowhere = 39, SPEC.n_items + 1, 1000
    assert features.item_id is not None
    output = features(batch_of(items, [cold, in_item_table, nowhere], [[0], [], []]))
    unknown_D = features.item_id.weight[UNKNOWN_ITEM]
    assert torch.equal(output.item_BD[:, :5], unknown_D.expand(3, 5))
    for row, item in ((0, cold), (1, in_item_table)):
        vector_D = standardised(items, "fused", item)
        torch.testing.assert_close(output.item_BD[row, 5:], vector_D, atol=1e-5, rtol=0)
    assert not output.item_BD[2, 5:].any()
    assert not output.history_TD[0].any()  # padding


def test_items_seen_only_beyond_the_history_limit_are_unknown() -> None:
    items = random_items()
    rows, _ = random_train_rows()
    train = dataclasses.replace(
        rows.take(np.arange(2)), item_id=np.array([6, 7]), history=np.array([0, 1])
    )
    histories = Ragged.from_lists([[1, 2, 3], [4, 5]])
    for limit, known in ((2, {2, 3, 4, 5, 6, 7}), (3, {1, 2, 3, 4, 5, 6, 7})):
        config = dataclasses.replace(NOTHING, item_id=True, max_history=limit)
        features = FeatureEmbedding(config, SPEC)
        features.fit(items, train, histories)
        assert set(features.known_items_I.nonzero().flatten().tolist()) == known


def replaced(features: FeatureEmbedding, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which targets and history items have the unknown row, and which have their own."""
    assert features.item_id is not None
    weight = features.item_id.weight
    actual_ND = all_item_features(features(batch))
    is_unknown_N = (actual_ND == weight[UNKNOWN_ITEM]).all(1)
    return is_unknown_N, (actual_ND == weight[ids_of(batch)]).all(1)


def test_training_replaces_known_ids_at_the_configured_rate() -> None:
    torch.manual_seed(4)
    items = random_items()
    known, _ = known_ids()
    config = dataclasses.replace(NOTHING, item_id=True, user_id=True, unknown_rate=0.3)
    features = fitted(config, items).train()
    n_rows, length = 3000, 3
    ids = torch.tensor(sorted(known))[torch.randint(len(known), (n_rows * length,))].tolist()
    histories = [ids[row * length : row * length + length] for row in range(n_rows)]
    batch = batch_of(items, ids[:n_rows], histories)
    is_unknown_N, is_own_N = replaced(features, batch)
    assert bool((is_unknown_N ^ is_own_N).all())
    targets_B, history_T = is_unknown_N.split([n_rows, n_rows * length])
    # The tolerances are four standard errors.
    assert targets_B.float().mean() == pytest.approx(0.3, abs=4 * (0.21 / n_rows) ** 0.5)
    assert history_T.float().mean() == pytest.approx(0.3, abs=4 * (0.21 / n_rows / length) ** 0.5)
    # Targets and history items are drawn independently, so both are replaced in 0.3 ** 2 = 0.09 of
    # the rows. The next batch has new draws.
    assert 0.05 < (targets_B & history_T.view(n_rows, length)[:, 0]).float().mean() < 0.13
    assert not torch.equal(replaced(features, batch)[0], is_unknown_N)

    assert features.user_id is not None
    users_BD = features(batch).context_BC
    unknown_B = (users_BD == features.user_id.weight[UNKNOWN_USER]).all(1)
    assert unknown_B.float().mean() == pytest.approx(0.3, abs=4 * (0.21 / n_rows) ** 0.5)

    assert not replaced(features.eval(), batch)[0].any()


def test_a_rate_of_zero_replaces_nothing_and_padding_is_never_replaced() -> None:
    items = random_items()
    never = fitted(dataclasses.replace(NOTHING, item_id=True), items).train()
    known = sorted(known_ids()[0])
    assert not replaced(never, batch_of(items, known * 20, [[]] * len(known) * 20))[0].any()
    often = fitted(dataclasses.replace(NOTHING, item_id=True, unknown_rate=0.9), items).train()
    padding_TD = often(batch_of(items, [known[0]], [[0] * 200])).history_TD
    assert not padding_TD.any()


def test_replacement_trains_the_unknown_row() -> None:
    torch.manual_seed(5)
    items = random_items()
    known = sorted(known_ids()[0])
    batch = batch_of(items, known, [[]] * len(known))
    for rate, is_trained in ((0.0, False), (0.5, True)):
        config = dataclasses.replace(NOTHING, item_id=True, unknown_rate=rate)
        features = fitted(config, items).train()
        features(batch).item_BD.sum().backward()
        assert features.item_id is not None
        gradient = features.item_id.weight.grad
        assert gradient is not None
        assert bool(gradient[UNKNOWN_ITEM].any()) == is_trained
        # Each use of a row adds 1 to each number of its gradient.
        n_own = int(gradient[:UNKNOWN_ITEM, 0].sum())
        assert n_own + int(gradient[UNKNOWN_ITEM, 0]) == len(known)

"""Properties that every model must have."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import MODEL_CONFIGS
from mmctr_pipeline_tests.models.zoo import (
    SMALL_MODELS,
    random_batch,
    random_items,
    small_model,
)

every_model = pytest.mark.parametrize("name", sorted(SMALL_MODELS))


def test_every_model_is_tested() -> None:
    assert {config.name for config in SMALL_MODELS.values()} == set(MODEL_CONFIGS)


def compute_logits(name: str, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return small_model(name, batch.items)(batch)


def example_batch(n_rows: int = 32) -> Batch:
    torch.manual_seed(5)
    return random_batch(n_rows, random_items())


def permute_rows(batch: Batch, order_B: torch.Tensor) -> Batch:
    histories = batch.history_T.split(batch.history_offsets.diff().tolist())
    lengths = batch.history_offsets.diff()[order_B]
    return dataclasses.replace(
        batch,
        **{
            name: getattr(batch, name)[order_B]
            for name in ("user_id_B", "item_id_B", "likes_level_B", "views_level_B", "label_B")
        },
        history_T=torch.cat([histories[row] for row in order_B.tolist()]),
        history_offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )


@every_model
def test_empty_histories_give_finite_logits_and_gradients(name: str) -> None:
    torch.manual_seed(5)
    batch = random_batch(12, random_items(), lengths=[0] * 12)
    assert compute_logits(name, batch).isfinite().all()
    padded_batch = dataclasses.replace(batch, history_T=torch.zeros(64, dtype=torch.int64))
    torch.testing.assert_close(
        compute_logits(name, padded_batch), compute_logits(name, batch), atol=1e-5, rtol=0
    )
    model = small_model(name, batch.items).train()
    model(batch).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@every_model
def test_permuting_rows_only_permutes_logits(name: str) -> None:
    batch = example_batch()
    order_B = torch.randperm(len(batch))
    logits_B = compute_logits(name, batch)
    assert logits_B.std() > 1e-3
    torch.testing.assert_close(
        compute_logits(name, permute_rows(batch, order_B)), logits_B[order_B], atol=1e-5, rtol=0
    )


@every_model
@pytest.mark.parametrize("length", [0, 1, 6])
def test_sharing_one_history_changes_no_logit(name: str, length: int) -> None:
    torch.manual_seed(5)
    batch = random_batch(12, random_items(), lengths=[length] * 12)
    history_T = batch.history_T[:length]
    shared = dataclasses.replace(
        batch,
        history_T=history_T,
        history_offsets=torch.tensor([0, length]),
        history_row_B=torch.zeros(12, dtype=torch.int64),
    )
    model = small_model(name, batch.items)
    if not (model.shares_histories or model.shares_one_history):
        assert name == "transformer_dcn"
        return
    alone = dataclasses.replace(batch, history_T=history_T.repeat(12))
    logits_B = compute_logits(name, alone)
    torch.testing.assert_close(compute_logits(name, shared), logits_B, atol=1e-5, rtol=0)
    if model.shares_one_history:
        with pytest.raises(RuntimeError, match=r"are for scoring: use torch\.no_grad"):
            model(shared)
    assert logits_B.std() > 1e-3


@every_model
@pytest.mark.parametrize("n_parts", [2, 7])
def test_splitting_a_batch_changes_no_logit(name: str, n_parts: int) -> None:
    batch = example_batch()
    parts = [compute_logits(name, part) for part in batch.split(n_parts)]
    torch.testing.assert_close(torch.cat(parts), compute_logits(name, batch), atol=1e-5, rtol=0)


@every_model
@pytest.mark.parametrize("n_padding", [1, 64])
def test_padding_a_batch_changes_no_logit(name: str, n_padding: int) -> None:
    batch = example_batch()
    padded_history_T = torch.nn.functional.pad(batch.history_T, (0, n_padding))
    padded_batch = dataclasses.replace(batch, history_T=padded_history_T)
    torch.testing.assert_close(
        compute_logits(name, padded_batch), compute_logits(name, batch), atol=1e-5, rtol=0
    )


@every_model
def test_padding_a_batch_changes_no_gradient(name: str) -> None:
    batch = example_batch()
    padded_history_T = torch.nn.functional.pad(batch.history_T, (0, 20))
    gradients = []
    for variant in (batch, dataclasses.replace(batch, history_T=padded_history_T)):
        model = small_model(name, batch.items).double()
        # The model is in evaluation mode: in training, random draws depend on the padding.
        model(to_float64(variant)).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    unpadded, padded = gradients
    for parameter, gradient in unpadded.items():
        torch.testing.assert_close(padded[parameter], gradient, atol=1e-9, rtol=1e-6)


@every_model
def test_every_history_item_and_the_target_affect_the_logits(name: str) -> None:
    torch.manual_seed(5)
    items = random_items()
    batch = random_batch(8, items, lengths=[3] * 8)
    logits_B = compute_logits(name, batch)
    for position in range(3):
        history_T = batch.history_T.clone()
        history_T[position::3] = history_T[position::3] % 20 + 2
        changed_B = compute_logits(name, dataclasses.replace(batch, history_T=history_T))
        assert (changed_B - logits_B).abs().max() > 1e-6, f"position {position} of the histories"
    changed = dataclasses.replace(batch, item_id_B=batch.item_id_B % 20 + 2)
    assert (compute_logits(name, changed) - logits_B).abs().max() > 1e-6


TARGET_ITEMS, HISTORY_ITEMS = slice(1, 15), slice(15, 29)
"""Item ids that occur in the train rows; target and history ids do not overlap."""

COLUMNS = {"user": "user_id_B", "likes level": "likes_level_B", "views level": "views_level_B"}
TABLES = {
    "tags": "tags_IK",
    "likes level": "likes_level_I",
    "views level": "views_level_I",
    "fused": "vectors_ID",
    "text": "text_vectors_ID",
    "image": "image_vectors_ID",
}
EVERYTHING = {("row", feature) for feature in COLUMNS} | {
    (role, feature) for role in ("target", "history") for feature in ("id", *TABLES)
}
FEATURES_READ = dict.fromkeys(SMALL_MODELS, EVERYTHING) | {
    "improved_mmctr": {("target", "id"), ("target", "fused"), ("history", "id")}
    | {(role, feature) for role, feature in EVERYTHING if role == "row"},
    "din, click rates": EVERYTHING - {("history", "id")},
    "similarity_attention, similarities alone": EVERYTHING
    - {("history", feature) for feature in ("tags", "likes level", "views level")},
}
"""Features of rows and items that each small model is configured to read."""


@every_model
@torch.no_grad()
def test_logits_depend_on_exactly_the_configured_features(name: str) -> None:
    torch.manual_seed(5)
    items = random_items()
    batch = dataclasses.replace(
        random_batch(32, items, lengths=[3] * 32),
        user_id_B=torch.randint(1, 20, (32,)),
        item_id_B=torch.randint(TARGET_ITEMS.start, TARGET_ITEMS.stop, (32,)),
        history_T=torch.randint(HISTORY_ITEMS.start, HISTORY_ITEMS.stop, (96,)),
    )
    model = small_model(name, items)
    logits_B = model(batch)
    features_that_matter = {
        (role, feature)
        for role, feature in EVERYTHING
        if (model(change_feature(batch, role, feature)) - logits_B).abs().max() > 1e-6
    }
    assert features_that_matter == FEATURES_READ[name]


def change_feature(batch: Batch, role: str, feature: str) -> Batch:
    """Return the batch with one feature of its rows, targets or history items changed."""
    if role == "row":
        values_B = getattr(batch, COLUMNS[feature])
        return dataclasses.replace(batch, **{COLUMNS[feature]: values_B % 10 + 1})
    item_ids = TARGET_ITEMS if role == "target" else HISTORY_ITEMS
    if feature == "id":
        return renumber_items(batch, item_ids)
    table = getattr(batch.items, TABLES[feature]).clone()
    # Vectors get another direction and length; missing ones stay zero.
    table[item_ids] = (
        table[item_ids].flip(1) * 2 if table.is_floating_point() else table[item_ids] % 8 + 1
    )
    return dataclasses.replace(
        batch, items=dataclasses.replace(batch.items, **{TABLES[feature]: table})
    )


def renumber_items(batch: Batch, item_ids: slice) -> Batch:
    """Return the batch with new ids for some items, whose features stay the same."""
    items = batch.items
    new_I = torch.arange(len(items.present_I))
    new_I[item_ids] = new_I[item_ids].roll(-1)
    tables = {
        field.name: torch.empty_like(table).index_copy_(0, new_I, table)
        for field in dataclasses.fields(items)
        if (table := getattr(items, field.name)) is not None
    }
    return dataclasses.replace(
        batch,
        item_id_B=new_I[batch.item_id_B],
        history_T=new_I[batch.history_T],
        items=dataclasses.replace(items, **tables),
    )


def to_float64(batch: Batch) -> Batch:
    items = batch.items
    tensors = {
        field.name: value.double()
        for field in dataclasses.fields(items)
        if (value := getattr(items, field.name)) is not None and value.is_floating_point()
    }
    return dataclasses.replace(batch, items=dataclasses.replace(items, **tensors))

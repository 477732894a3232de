"""`similarity_attention` equals plain loops; a row's own label does not affect its logit."""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.data.vectors import ItemVectors
from mmctr_pipeline.models.batch import ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import SimilarityAttentionConfig
from mmctr_pipeline.models.similarity_attention import SimilarityAttention
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.models.padded_case import exact_batch, exact_model
from mmctr_pipeline_tests.models.plain_similarity_attention import plain_logits
from mmctr_pipeline_tests.models.zoo import (
    FEATURES,
    SMALL_MODELS,
    SPEC,
    batch_of_train_rows,
    random_batch,
    random_items,
    random_train_rows,
    small_model,
)
from mmctr_pipeline_tests.training.small_sample import small_sample

CONFIG = SimilarityAttentionConfig(
    features=FEATURES,
    learned_dim=6,
    attention_hidden_dims=(8, 4),
    cross_attention_layers=0,
    cross_attention_feed_forward_dim=6,
    hidden_dims=(16, 8),
)
N_HEADS = CONFIG.cross_attention_heads


def flipped(train: Split, row: int) -> Split:
    """Return the train rows with the label of one row flipped."""
    assert train.label is not None
    label = train.label.copy()
    label[row] = 1 - label[row]
    return dataclasses.replace(train, label=label)


@contextlib.contextmanager
def own_user_left_in(model: SimilarityAttention) -> Iterator[None]:
    """Plant a leak: count a row's own user, too, among the users that two items share."""
    assert model.co_interactions is not None
    planted = model.co_interactions.register_forward_pre_hook(
        lambda layer, inputs: (torch.zeros_like(inputs[0]), *inputs[1:])
    )
    try:
        yield
    finally:
        planted.remove()


@torch.no_grad()
def test_similarity_in_logit_with_zero_weights_equals_a_model_without_it() -> None:
    model, batch = exact_model(CONFIG).eval(), exact_batch(24)
    without = build_model(dataclasses.replace(CONFIG, similarity_in_logit=False), SPEC).double()
    state = model.state_dict()
    assert state["learned_weight_L"].all()
    model.learned_weight_L.zero_()
    without_means_B = model(batch)
    without.load_state_dict({n: v for n, v in state.items() if n != "learned_weight_L"})
    torch.testing.assert_close(without.eval()(batch), without_means_B, atol=1e-9, rtol=0)


@torch.no_grad()
def test_the_learned_part_of_the_logit_is_not_rounded_under_autocast() -> None:
    items = random_items()
    model = small_model("similarity_attention, similarities alone", items).eval()
    assert isinstance(model, SimilarityAttention)
    for parameter in model.tower[-1].parameters():
        parameter.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        logits_B = model(random_batch(200, items))
    logits_B = logits_B[logits_B != 0]  # empty histories give zero
    assert (logits_B != logits_B.bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("rows", ["random", "train"])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
@torch.no_grad()
def test_logits_equal_plain_loops(n_layers: int, rows: str) -> None:
    config = dataclasses.replace(CONFIG, cross_attention_layers=n_layers)
    model, batch = exact_model(config).eval(), exact_batch(24)
    assert isinstance(model, SimilarityAttention)
    if rows == "train":
        batch = batch_of_train_rows(batch.items).split(4)[0]
    logits_B = model(batch)
    torch.testing.assert_close(logits_B, plain_logits(model, batch, N_HEADS), atol=1e-6, rtol=1e-6)
    if rows == "train":
        with own_user_left_in(model):
            assert ((model(batch) - logits_B).abs() > 1e-4).sum() > len(batch) / 4


@torch.no_grad()
def largest_change_by_own_label(model: SimilarityAttention, items: ItemFeatures) -> float:
    """Return how much a train row's logit changes at most if the row's own label is flipped.

    The weights stay the same; the statistics are fitted again to the train rows with that label
    flipped. The first 20 rows are tried, one after another.
    """
    train, histories = random_train_rows()
    changes = []
    for number, row in enumerate(batch_of_train_rows(items).split(len(train))[:20]):
        logits = []
        for rows in (train, flipped(train, number)):
            model.fit_statistics(items, rows, histories)
            logits.append(model(row).item())
        changes.append(abs(logits[0] - logits[1]))
    return max(changes)


def test_a_train_rows_own_label_does_not_change_its_logit() -> None:
    torch.manual_seed(0)
    items = random_items()
    model = small_model("similarity_attention", items)
    assert isinstance(model, SimilarityAttention)
    assert largest_change_by_own_label(model, items) == 0
    with own_user_left_in(model):
        assert largest_change_by_own_label(model, items) > 0.01


SIMILARITIES = ("fused", "text", "image", "content", "id")
SWITCHES = [
    {"fused_similarity": False},
    {"text_similarity": False},
    {"image_similarity": False},
    {"content_similarity": False},
    {"id_similarity": False},
    {"content_similarity": False, "id_similarity": False},
    {"co_interactions": False},
    {"similarity_in_attention": False},
    {"similarity_in_tower": False},
    {"similarity_in_logit": False},
    {"attention": False},
    dict.fromkeys([f"{kind}_similarity" for kind in SIMILARITIES] + ["co_interactions"], False),
    {"cross_attention_layers": 1},
    {"quadratic_layers": 0},
]


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda changes: ", ".join(changes))
def test_switching_any_part_leaves_no_unused_parameter(changes: dict) -> None:
    torch.manual_seed(0)
    items = random_items()
    model = build_model(dataclasses.replace(CONFIG, **changes), SPEC)
    model.fit_statistics(items, *random_train_rows())
    sizes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    full = build_model(CONFIG, SPEC)
    assert sizes != {n: tuple(p.shape) for n, p in full.named_parameters()}
    logits_B = model.train()(random_batch(16, items))
    logits_B.sum().backward()
    assert logits_B.isfinite().all()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_the_model_works_if_no_item_has_title_or_cover_vectors() -> None:
    spec = dataclasses.replace(SPEC, text_dim=0, image_dim=0)
    items = random_items()
    items = dataclasses.replace(
        items,
        text_vectors_ID=None,
        text_present_I=None,
        image_vectors_ID=None,
        image_present_I=None,
    )
    config = dataclasses.replace(
        CONFIG, features=dataclasses.replace(FEATURES, text_vectors=False, image_vectors=False)
    )
    model = build_model(config, spec)
    model.fit_statistics(items, *random_train_rows())
    assert model.eval()(random_batch(8, items)).isfinite().all()


def test_valid_and_test_rows_do_not_affect_the_model() -> None:
    dataset, vectors = small_sample(n_train=600, n_valid=300, n_items=1500)
    generator = np.random.default_rng(0)
    # Change targets, labels and histories of the valid rows, and targets of the test rows. Fill the
    # histories that no train row has with items that occur in no train row.
    is_train_history = np.isin(np.arange(len(dataset.histories)), dataset.train.history)
    in_train = np.repeat(is_train_history, dataset.histories.lengths)
    values = dataset.histories.values
    in_train_rows = np.concatenate([dataset.train.item_id, values[in_train]])
    unseen = np.setdiff1d(dataset.items.item_id, in_train_rows)
    assert len(unseen) > 0
    assert not in_train.all()
    changed = dataclasses.replace(
        dataset,
        histories=Ragged(
            np.where(in_train, values, generator.choice(unseen, len(values))).astype(np.int32),
            dataset.histories.offsets,
        ),
        valid=dataclasses.replace(
            dataset.valid,
            item_id=generator.permutation(dataset.valid.item_id),
            label=1 - dataset.valid.label,
            history=generator.permutation(dataset.valid.history),
        ),
        test=dataclasses.replace(dataset.test, item_id=generator.permutation(dataset.test.item_id)),
    )
    training = TrainingConfig(max_epochs=1, batch_size=128)
    states = [
        train_ctr(
            data,
            ItemVectors(vectors.fused, vectors.fused, vectors.fused),
            SMALL_MODELS["similarity_attention"],
            training,
            torch.device("cpu"),
        ).module.state_dict()
        for data in (dataset, changed)
    ]
    assert any("pair_P" in name for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

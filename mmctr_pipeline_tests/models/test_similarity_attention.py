"""Our model against plain loops, and what its statistics may know."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.config import SimilarityAttentionConfig
from mmctr_pipeline.models.layers.similarity import RECENCY
from mmctr_pipeline.models.registry import build_model
from mmctr_pipeline.models.similarity_attention import SimilarityAttention
from mmctr_pipeline.training.config import TrainingConfig
from mmctr_pipeline.training.ctr import train_ctr
from mmctr_pipeline_tests.data.test_co_interactions import items_of_users
from mmctr_pipeline_tests.models.padded_case import exact_batch, exact_model
from mmctr_pipeline_tests.models.plain_din import history_of, known_ids
from mmctr_pipeline_tests.models.zoo import (
    FEATURES,
    SMALL_MODELS,
    SPEC,
    random_batch,
    random_items,
    random_train_rows,
)
from mmctr_pipeline_tests.training.small_world import small_world

CONFIG = SimilarityAttentionConfig(
    features=FEATURES,
    learned_dim=6,
    attention_hidden_dims=(8, 4),
    cross_attention_layers=0,
    hidden_dims=(16, 8),
)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    norms = a.norm() * b.norm()
    return a @ b / norms if norms > 0 else a.new_zeros(())


def plain_similarities(
    model: SimilarityAttention, batch: Batch, row: int, item: int
) -> torch.Tensor:
    """Return the seven similarities of a row's target and an item, with one's own user left out."""
    items, target = batch.items, int(batch.item_id_B[row])
    vectors = {kind: items.vectors_of(kind)[0] for kind in ("fused", "text", "image")}
    found = [cosine(each[target], each[item]) for each in vectors.values()]

    of_users = items_of_users(*random_train_rows())
    of_users.pop(int(batch.user_id_B[row]), None)
    sets = [{u for u, of_user in of_users.items() if each in of_user} for each in (target, item)]
    shared = len(sets[0] & sets[1]) if target != item else 0
    sizes = max(len(sets[0]), 1) * max(len(sets[1]), 1)
    found += [torch.tensor(shared / math.sqrt(sizes)), torch.tensor(math.log1p(shared))]

    known, _ = known_ids()
    for learned in model.learned:
        both = []
        for each in (target, item):
            content = torch.cat(
                [
                    vectors[kind][each] / vectors[kind][each].norm().clamp_min(1e-12) * scale
                    for kind, scale in (("text", math.sqrt(10)), ("image", math.sqrt(6)))
                ]
            )
            first, _, last = learned.content
            vector = last.weight @ (first.weight @ content + first.bias).relu() + last.bias
            if learned.id is not None:
                id_row = each if each in known else SPEC.n_items
                vector = vector + learned.ID_SCALE * learned.id.weight[id_row]
            both.append(vector)
        found.append(cosine(*both))
    return torch.stack([each.double() for each in found])


def plain_logit(model: SimilarityAttention, batch: Batch, row: int, features: tuple) -> float:
    target_D, history_LD, context_C = features
    attention = model.attention
    assert attention is not None
    history = history_of(batch, row)
    similarity_LS = [plain_similarities(model, batch, row, item) for item in history]
    interest_D = torch.zeros_like(target_D)
    for place, (key_D, similarity_S) in enumerate(zip(history_LD, similarity_LS, strict=True)):
        age = len(history) - 1 - place
        inputs_N = torch.cat([similarity_S, similarity_S.new_tensor([1 / (1 + age)])])
        joined = torch.cat([target_D, key_D, target_D - key_D, target_D * key_D])
        hidden = attention.first.weight @ joined + attention.first.bias
        hidden = (hidden + attention.of_inputs.weight @ inputs_N).relu()
        for layer in attention.further:
            hidden = (layer.weight @ hidden + layer.bias).relu()
        interest_D = interest_D + key_D * (attention.score.weight @ hidden + attention.score.bias)

    n_similarities = 7
    summaries = [torch.zeros(n_similarities, dtype=torch.float64)] * 4
    if history:
        all_LS = torch.stack(similarity_LS)
        weight_L = RECENCY ** torch.arange(len(history)).flip(0).double()
        recent_S = weight_L @ all_LS / weight_L.sum()
        summaries = [all_LS.mean(0), all_LS.max(0).values, all_LS[-1], recent_S]
    length = target_D.new_tensor([math.log1p(len(history))])
    x = torch.cat([target_D, context_C, length, interest_D, *summaries])
    x = normed(model.input_norm, x)
    for block in model.quadratic:
        quadratic = x * (block.quadratic.rows.weight @ x + block.quadratic.rows.bias)
        x = x + functional.prelu(normed(block.norm, quadratic)[None], block.activation.weight)[0]
    *hidden_layers, last = [layer for layer in model.tower if hasattr(layer, "weight")]
    for linear, norm in zip(hidden_layers[::2], hidden_layers[1::2], strict=True):
        x = normed(norm, linear.weight @ x + linear.bias).relu()
    logit = last.weight[0] @ x + last.bias[0]
    return float(logit + model.learned_weight_L @ summaries[0][-2:])


def normed(norm: torch.nn.BatchNorm1d, x: torch.Tensor) -> torch.Tensor:
    scale = (norm.running_var + norm.eps).rsqrt()
    return (x - norm.running_mean) * scale * norm.weight + norm.bias


@torch.no_grad()
def test_logits_are_those_of_plain_loops() -> None:
    model, batch = exact_model(CONFIG).eval(), exact_batch(24)
    assert isinstance(model, SimilarityAttention)
    found = model.features(batch)
    lengths = batch.history_offsets.diff().tolist()
    histories = found.history_TD[: sum(lengths)].split(lengths)
    expected = [
        plain_logit(model, batch, row, (found.item_BD[row], histories[row], found.context_BC[row]))
        for row in range(len(batch))
    ]
    torch.testing.assert_close(
        model(batch), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6
    )


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
    {"attention": False},
    dict.fromkeys([f"{kind}_similarity" for kind in SIMILARITIES] + ["co_interactions"], False),
    {"cross_attention_layers": 1},
    {"quadratic_layers": 0},
]


@pytest.mark.parametrize("off", SWITCHES, ids=lambda off: ", ".join(off))
def test_every_part_can_be_switched(off: dict) -> None:
    torch.manual_seed(0)
    items = random_items()
    model = build_model(dataclasses.replace(CONFIG, **off), SPEC)
    model.fit_statistics(items, *random_train_rows())
    sizes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    full = build_model(CONFIG, SPEC)
    assert sizes != {n: tuple(p.shape) for n, p in full.named_parameters()}
    logits_B = model.train()(random_batch(16, items))
    logits_B.sum().backward()
    assert logits_B.isfinite().all()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_vectors_that_no_item_has_are_done_without() -> None:
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


def test_valid_and_test_rows_change_nothing_in_the_model() -> None:
    dataset, vectors = small_world(n_train=600, n_valid=300)
    generator = np.random.default_rng(0)
    # Other targets, other labels, and the histories of other users.
    turned = dataclasses.replace(
        dataset,
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
            each,
            vectors,
            SMALL_MODELS["similarity_attention"],
            training,
            torch.device("cpu"),
            lambda line: None,
            modalities={"text": vectors, "image": vectors},
        ).module.state_dict()
        for each in (dataset, turned)
    ]
    assert any("pair_P" in name for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

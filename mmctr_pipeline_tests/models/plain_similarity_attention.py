"""Plain reference of `similarity_attention`, one row, one position and one head at a time."""

import math

import torch
from torch.nn import functional

from mmctr_pipeline.models.batch import Batch
from mmctr_pipeline.models.layers.similarity import RECENCY, LearnedVectors
from mmctr_pipeline.models.layers.target_query import TargetQueryEncoder
from mmctr_pipeline.models.similarity_attention import SimilarityAttention
from mmctr_pipeline_tests.data.rows_by_hand import items_by_user
from mmctr_pipeline_tests.models.plain_din import history_items, known_ids
from mmctr_pipeline_tests.models.zoo import SPEC, random_train_rows

N_SIMILARITIES = 7


def plain_logits(model: SimilarityAttention, batch: Batch, n_heads: int) -> torch.Tensor:
    """Return the logits `(B,) float64` in evaluation mode, after a fit to `random_train_rows`.

    `n_heads` is the number of heads of the cross-attention. The features are those that
    `model.features` computes.
    """
    features = model.features(batch)
    lengths = batch.history_offsets.diff().tolist()
    histories = features.history_TD[: sum(lengths)].split(lengths)
    logits = [
        _logit(
            model,
            batch,
            row,
            (features.item_BD[row], histories[row], features.context_BC[row]),
            n_heads,
        )
        for row in range(len(batch))
    ]
    return torch.stack(logits)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    norms = a.norm() * b.norm()
    return a @ b / norms if norms > 0 else a.new_zeros(())


def _similarities(model: SimilarityAttention, batch: Batch, row: int, item: int) -> torch.Tensor:
    """Return the seven similarities of a row's target and an item.

    The users that the two items share are counted without the row's own user.
    """
    items, target = batch.items, int(batch.item_id_B[row])
    vectors = {kind: items.vectors_of(kind)[0] for kind in ("fused", "text", "image")}
    similarities = [_cosine(table[target], table[item]) for table in vectors.values()]

    by_user = items_by_user(*random_train_rows())
    by_user.pop(int(batch.user_id_B[row]), None)
    users_of_target, users_of_item = (
        {user for user, items_of_user in by_user.items() if item_id in items_of_user}
        for item_id in (target, item)
    )
    shared = len(users_of_target & users_of_item) if target != item else 0
    sizes = max(len(users_of_target), 1) * max(len(users_of_item), 1)
    similarities += [torch.tensor(shared / math.sqrt(sizes)), torch.tensor(math.log1p(shared))]

    for learned in model.learned:
        target_vector = _learned_vector(learned, vectors, target)
        item_vector = _learned_vector(learned, vectors, item)
        similarities.append(_cosine(target_vector, item_vector))
    return torch.stack([similarity.double() for similarity in similarities])


def _learned_vector(
    learned: LearnedVectors, vectors: dict[str, torch.Tensor], item: int
) -> torch.Tensor:
    """Return an item's learned vector from its title, its cover and its id."""
    scaled = [
        vectors[kind][item] / vectors[kind][item].norm().clamp_min(1e-12) * math.sqrt(dim)
        for kind, dim in (("text", SPEC.text_dim), ("image", SPEC.image_dim))
    ]
    first, _, last = learned.content
    hidden = (first.weight @ torch.cat(scaled) + first.bias).relu()
    vector = last.weight @ hidden + last.bias
    if learned.id is None:
        return vector
    known, _ = known_ids()
    row = item if item in known else SPEC.n_items
    return vector + learned.ID_SCALE * learned.id.weight[row]


def _logit(
    model: SimilarityAttention, batch: Batch, row: int, features: tuple, n_heads: int
) -> torch.Tensor:
    target_D, history_LD, context_C = features
    attention = model.attention
    assert attention is not None
    history = history_items(batch, row)
    similarity_LS = [_similarities(model, batch, row, item) for item in history]
    interest_D = torch.zeros_like(target_D)
    for position, (key_D, similarity_S) in enumerate(zip(history_LD, similarity_LS, strict=True)):
        age = len(history) - 1 - position
        inputs_N = torch.cat([similarity_S, similarity_S.new_tensor([1 / (1 + age)])])
        joined = torch.cat([target_D, key_D, target_D - key_D, target_D * key_D])
        hidden = attention.first.weight @ joined + attention.first.bias
        hidden = (hidden + attention.of_inputs.weight @ inputs_N).relu()
        for layer in attention.further:
            hidden = (layer.weight @ hidden + layer.bias).relu()
        interest_D = interest_D + key_D * (attention.score.weight @ hidden + attention.score.bias)

    summaries = [torch.zeros(N_SIMILARITIES, dtype=torch.float64)] * 4
    if history:
        all_LS = torch.stack(similarity_LS)
        weight_L = RECENCY ** torch.arange(len(history)).flip(0).double()
        recent_S = weight_L @ all_LS / weight_L.sum()
        summaries = [all_LS.mean(0), all_LS.max(0).values, all_LS[-1], recent_S]
    length = target_D.new_tensor([math.log1p(len(history))])
    answers = []
    if model.query_encoder is not None:
        answers.append(_answer(model.query_encoder, target_D, history_LD, n_heads))
    x = torch.cat([target_D, context_C, length, interest_D, *answers, *summaries])
    x = _normed(model.input_norm, x)
    for block in model.quadratic:
        quadratic = x * (block.quadratic.rows.weight @ x + block.quadratic.rows.bias)
        x = x + functional.prelu(_normed(block.norm, quadratic)[None], block.activation.weight)[0]
    *hidden_layers, last = [layer for layer in model.tower if hasattr(layer, "weight")]
    for linear, norm in zip(hidden_layers[::2], hidden_layers[1::2], strict=True):
        x = _normed(norm, linear.weight @ x + linear.bias).relu()
    logit = last.weight[0] @ x + last.bias[0]
    return logit + model.learned_weight_L @ summaries[0][-2:]


def _answer(
    encoder: TargetQueryEncoder, target_D: torch.Tensor, history_LD: torch.Tensor, n_heads: int
) -> torch.Tensor:
    """Return the target `(D,)` after every layer has queried the history `(L, D)`."""
    answer_D = target_D
    for layer in encoder.layers:
        attention = layer.attention
        to_query, to_key, to_value = zip(
            attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
        )
        query_hE = _heads(to_query, _rms_normed(answer_D) * layer.attention_norm.weight, n_heads)
        keys = [_heads(to_key, _rms_normed(item_D), n_heads) for item_D in history_LD]
        values = [_heads(to_value, _rms_normed(item_D), n_heads) for item_D in history_LD]
        found_hE = torch.zeros_like(query_hE)
        for head, query_E in enumerate(query_hE):
            weights = [math.exp(query_E @ key[head] / math.sqrt(len(query_E))) for key in keys]
            for weight, value in zip(weights, values, strict=True):
                found_hE[head] += weight / sum(weights) * value[head]
        out = attention.out_proj
        answer_D = answer_D + out.weight @ found_hE.flatten() + out.bias
        norm, first, _, _, second = layer.feed_forward
        hidden = (first.weight @ (_rms_normed(answer_D) * norm.weight) + first.bias).relu()
        answer_D = answer_D + second.weight @ hidden + second.bias
    return answer_D


def _heads(projection: tuple, x_D: torch.Tensor, n_heads: int) -> torch.Tensor:
    weight, bias = projection
    return (weight @ x_D + bias).view(n_heads, -1)


def _rms_normed(x_D: torch.Tensor) -> torch.Tensor:
    return x_D / (x_D.square().mean() + 1e-6).sqrt()


def _normed(norm: torch.nn.BatchNorm1d, x: torch.Tensor) -> torch.Tensor:
    scale = (norm.running_var + norm.eps).rsqrt()
    return (x - norm.running_mean) * scale * norm.weight + norm.bias

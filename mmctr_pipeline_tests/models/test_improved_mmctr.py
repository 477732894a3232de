"""Recipe A's model: its size, its initialisation, and its logits against a plain padded form."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mmctr_pipeline.data.dataset import Split
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.models.base import CtrModel
from mmctr_pipeline.models.batch import Batch, FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ImprovedMmctrConfig

SPEC = FeatureSpec(n_users=30, n_items=40, vector_dim=16)
CONFIG = ImprovedMmctrConfig()
N_ITEM_ROWS = 45  # five items were added after training, so they are beyond the table


def no_rows() -> tuple[Split, Ragged]:
    """Return empty train rows; this model reads none."""
    none = np.zeros(0, np.int32)
    return Split(none, none, none, none, none), Ragged.from_lists([])


def random_items() -> ItemFeatures:
    vectors_ID = torch.randn(N_ITEM_ROWS, SPEC.vector_dim) * 3 + 1
    present_I = torch.rand(N_ITEM_ROWS) > 0.2
    present_I[0] = False
    vectors_ID[~present_I] = 0
    levels_I = torch.zeros(N_ITEM_ROWS, dtype=torch.int64)
    no_tags_IK = torch.zeros(N_ITEM_ROWS, 0, dtype=torch.int64)
    return ItemFeatures(vectors_ID, present_I, levels_I, levels_I, no_tags_IK)


def random_batch(n_rows: int, items: ItemFeatures) -> Batch:
    lengths_B = torch.randint(0, 12, (n_rows,))
    lengths_B[0], lengths_B[1] = 0, 100
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_B.cumsum(0)])
    user_id_B = torch.randint(1, SPEC.n_users, (n_rows,))
    item_id_B = torch.randint(1, N_ITEM_ROWS, (n_rows,))
    user_id_B[2], item_id_B[3], item_id_B[4] = SPEC.n_users + 5, SPEC.n_items, 10**6
    return Batch(
        user_id_B=user_id_B,
        item_id_B=item_id_B,
        likes_level_B=torch.randint(0, 11, (n_rows,)),
        views_level_B=torch.randint(0, 11, (n_rows,)),
        history_T=torch.randint(1, N_ITEM_ROWS, (int(offsets[-1]),)),
        history_offsets=offsets,
        items=items,
    )


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """Select and reorder rows of a batch in plain Python."""
    starts = batch.history_offsets.tolist()
    histories = [batch.history_T[starts[row] : starts[row + 1]] for row in rows]
    lengths = torch.tensor([0, *map(len, histories)])
    columns = ("user_id_B", "item_id_B", "likes_level_B", "views_level_B")
    return dataclasses.replace(
        batch,
        **{name: getattr(batch, name)[rows] for name in columns},
        history_T=torch.cat(histories),
        history_offsets=lengths.cumsum(0),
    )


@pytest.fixture(name="model")
def model_with_random_tables() -> CtrModel:
    """A model in evaluation mode with random tables, biases and running statistics."""
    torch.manual_seed(0)
    model = build_model(CONFIG, SPEC)
    for name, tensor in model.state_dict().items():
        if name.endswith("embedding.weight"):
            tensor[1:] = torch.randn_like(tensor[1:])
        elif name.endswith("running_mean"):
            tensor.copy_(torch.randn_like(tensor))
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif name.endswith("bias"):
            tensor.copy_(torch.randn_like(tensor) * 0.1)
    return model.eval()


def plain_logit(weights: dict[str, np.ndarray], batch: Batch, row: int) -> float:
    """Compute one row's logit by recipe A's formulas in float64, on a history padded to 100."""

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def batch_norm(x: np.ndarray, name: str) -> np.ndarray:
        scale = np.sqrt(weights[f"{name}.running_var"] + 1e-5)
        normed = (x - weights[f"{name}.running_mean"]) / scale
        return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def bilinear(x: np.ndarray, y: np.ndarray, name: str) -> np.ndarray:
        return (
            np.array([x @ form @ y for form in weights[f"{name}.weight"]]) + weights[f"{name}.bias"]
        )

    def table_row(index: int, size: int) -> int:
        return index if index < size else 0

    user_id, item_id = int(batch.user_id_B[row]), int(batch.item_id_B[row])
    user_table, item_table = (weights[f"{name}_embedding.weight"] for name in ("user", "item"))
    user = user_table[user_id] if user_id < SPEC.n_users else user_table[1:].mean(0)
    item = item_table[item_id] if item_id < SPEC.n_items else item_table[1:].mean(0)

    start, stop = batch.history_offsets[row : row + 2].tolist()
    history = np.zeros(100, int)
    for position, history_id in enumerate(batch.history_T[start:stop].tolist()):
        history[100 - (stop - start) + position] = table_row(history_id, SPEC.n_items)
    embedded = item_table[history]
    attention = linear(np.tanh(linear(embedded, "history_pooling.hidden")), "history_pooling.score")
    exponentials = np.where(history != 0, np.exp(attention[:, 0]), 0.0)
    total = exponentials.sum()
    pooled = (exponentials[:, None] * embedded).sum(0) / total if total > 0 else np.zeros(64)

    vector_row = table_row(item_id, N_ITEM_ROWS)
    vector = batch.items.vectors_ID[vector_row].double().numpy()
    mean, scale = weights["vector_scaling.mean_D"], weights["vector_scaling.scale_D"]
    vector = (vector - mean) / scale if batch.items.present_I[vector_row] else np.zeros_like(mean)
    transformed = linear(vector, "multimodal.0")
    transformed = (transformed - transformed.mean()) / np.sqrt(transformed.var() + 1e-5)
    transformed = transformed * weights["multimodal.1.weight"] + weights["multimodal.1.bias"]
    multimodal = np.maximum(transformed, 0)

    likes = weights["likes_embedding.weight"][int(batch.likes_level_B[row])]
    views = weights["views_embedding.weight"][int(batch.views_level_B[row])]
    user_item = bilinear(user, item, "user_item")
    history_item = bilinear(pooled, item, "history_item")
    parts = [user, item, pooled, likes, views, multimodal, user_item, history_item]
    x = batch_norm(np.concatenate(parts), "input_norm")
    for layer in (0, 4, 8):
        x = np.maximum(batch_norm(linear(x, f"tower.{layer}"), f"tower.{layer + 1}"), 0)
    return float(linear(x, "tower.12")[0])


def test_parameter_count_at_full_size() -> None:
    spec = FeatureSpec(n_users=1_000_001, n_items=91_718, vector_dim=128)
    with torch.device("meta"):
        model = build_model(ImprovedMmctrConfig(), spec)
    assert sum(p.numel() for p in model.parameters()) == 70_802_562
    assert all(p.is_meta for p in model.parameters())


def test_logits_equal_the_plain_padded_form(model: CtrModel) -> None:
    torch.manual_seed(1)
    items = random_items()
    model.fit_statistics(items, *no_rows())
    batch = random_batch(40, items)
    with torch.no_grad():
        logits_B = model(batch)
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    expected_B = torch.tensor([plain_logit(weights, batch, row) for row in range(40)])
    assert logits_B.shape == (40,)
    assert logits_B.dtype == torch.float32
    assert (logits_B.double() - expected_B).abs().max() < 1e-5
    assert expected_B.std() > 0.01


def test_permuting_rows_permutes_logits_and_splitting_changes_none(model: CtrModel) -> None:
    torch.manual_seed(2)
    batch = random_batch(33, random_items())
    order = torch.randperm(33).tolist()
    with torch.no_grad():
        together_B = model(batch)
        permuted_B = model(rows_of(batch, order))
        single_B = torch.cat([model(rows_of(batch, [row])) for row in range(33)])
    assert (permuted_B - together_B[order]).abs().max() < 1e-5
    assert (single_B - together_B).abs().max() < 1e-5


def test_changing_any_input_changes_some_logit(model: CtrModel) -> None:
    torch.manual_seed(3)
    batch = random_batch(20, random_items())
    other_history_T = batch.history_T.roll(1) % (SPEC.n_items - 1) + 1
    changed = {
        "user_id_B": batch.user_id_B % (SPEC.n_users - 1) + 1,
        "item_id_B": batch.item_id_B % (SPEC.n_items - 1) + 1,
        "likes_level_B": (batch.likes_level_B + 1) % 11,
        "views_level_B": (batch.views_level_B + 1) % 11,
        "history_T": other_history_T,
        "items": dataclasses.replace(batch.items, vectors_ID=batch.items.vectors_ID + 1),
    }
    with torch.no_grad():
        before_B = model(batch)
        for name, value in changed.items():
            after_B = model(dataclasses.replace(batch, **{name: value}))
            assert (after_B - before_B).abs().max() > 1e-3, name


def test_empty_histories_give_finite_logits_and_gradients() -> None:
    torch.manual_seed(4)
    model = build_model(CONFIG, SPEC)
    batch = dataclasses.replace(
        random_batch(16, random_items()),
        history_T=torch.zeros(0, dtype=torch.int64),
        history_offsets=torch.zeros(17, dtype=torch.int64),
    )
    logits_B = model(batch)
    logits_B.sum().backward()
    assert bool(torch.isfinite(logits_B).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_initialisation_is_xavier_normal_except_for_the_bilinear_forms() -> None:
    torch.manual_seed(5)
    spec = FeatureSpec(n_users=3000, n_items=2000, vector_dim=128)
    state = build_model(CONFIG, spec).state_dict()
    for name in ("user_embedding", "item_embedding"):
        assert torch.count_nonzero(state[f"{name}.weight"][0]) == 0
    xavier = [
        "user_embedding",
        "item_embedding",
        "multimodal.0",
        "history_pooling.hidden",
        "tower.0",
        "tower.4",
        "tower.8",
    ]
    for name in xavier:
        weight = state[f"{name}.weight"]
        expected = math.sqrt(2 / (weight.shape[0] + weight.shape[1]))
        assert weight.std().item() == pytest.approx(expected, rel=0.1), name
        # A uniform distribution never exceeds sqrt(3) standard deviations.
        assert weight.abs().max() > 2 * expected, name
    for level in ("likes_embedding", "views_embedding"):
        expected = math.sqrt(2 / (11 + 32))
        assert state[f"{level}.weight"].std().item() == pytest.approx(expected, rel=0.2)
        assert torch.count_nonzero(state[f"{level}.weight"][0]) == 32
    for name in ("multimodal.0", "history_pooling.hidden", "history_pooling.score", "tower.12"):
        assert torch.count_nonzero(state[f"{name}.bias"]) == 0
    for name in ("user_item", "history_item"):
        bound = 1 / math.sqrt(64)
        assert state[f"{name}.weight"].abs().max() <= bound
        assert state[f"{name}.weight"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert torch.count_nonzero(state[f"{name}.bias"]) > 0


def test_padding_rows_stay_zero_in_training() -> None:
    torch.manual_seed(6)
    model = build_model(CONFIG, SPEC)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = random_batch(64, random_items())
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).sum().backward()
        optimizer.step()
    state = model.state_dict()
    assert torch.count_nonzero(state["user_embedding.weight"][0]) == 0
    assert torch.count_nonzero(state["item_embedding.weight"][0]) == 0


def test_parameter_groups_hold_every_parameter_once() -> None:
    model = build_model(CONFIG, SPEC)
    groups = model.parameter_groups()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    multimodal = [names[id(parameter)] for parameter in groups["multimodal"]]
    assert set(groups) == {"main", "multimodal"}
    assert sorted(multimodal) == [
        "multimodal.0.bias",
        "multimodal.0.weight",
        "multimodal.1.bias",
        "multimodal.1.weight",
    ]
    everything = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(everything) == sorted(names)


def test_sharing_a_history_or_a_user_changes_no_logit() -> None:
    torch.manual_seed(0)
    items = random_items()
    model = build_model(CONFIG, SPEC).eval()
    model.fit_statistics(items, *no_rows())
    unshared = random_batch(24, items)
    starts = unshared.history_offsets.tolist()
    histories = [unshared.history_T[starts[row] : starts[row + 1]] for row in range(3)]
    row_B = torch.arange(3).repeat_interleave(8)
    # Users 4 and 9 have two histories each, and share one of them.
    user_id_B = torch.tensor([4] * 12 + [9] * 12)
    lengths_H = torch.tensor([len(history) for history in histories])
    shared = dataclasses.replace(
        unshared,
        user_id_B=user_id_B,
        history_T=torch.cat(histories),
        history_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths_H.cumsum(0)]),
        history_row_B=row_B,
    )
    alone = dataclasses.replace(
        unshared,
        user_id_B=user_id_B,
        history_T=torch.cat([histories[row] for row in row_B.tolist()]),
        history_offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths_H[row_B].cumsum(0)]),
    )
    with torch.no_grad():
        assert torch.allclose(model(shared), model(alone), atol=1e-5)
        assert model(alone).std() > 1e-3

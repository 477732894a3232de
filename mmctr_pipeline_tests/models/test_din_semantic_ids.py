"""DIN with semantic ids: codes of items, embeddings of codes, and the whole model."""

import dataclasses

import pytest
import torch

from mmctr_pipeline.models.batch import FeatureSpec, ItemFeatures
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import DinSemanticIdsConfig, FeatureConfig
from mmctr_pipeline.models.din_semantic_ids import DinSemanticIds, SemanticIds
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline_tests.models.plain_din import plain_din_logits, plain_item_features
from mmctr_pipeline_tests.models.zoo import (
    SMALL_MODELS,
    SPEC,
    random_batch,
    random_items,
    random_train_rows,
    small_model,
)

DIM = 6
CONFIG = DinSemanticIdsConfig(
    features=FeatureConfig(embedding_dim=DIM),
    text_codes=True,
    image_codes=True,
    n_levels=2,
    n_codes=4,
)


def fitted(items: ItemFeatures, config: DinSemanticIdsConfig = CONFIG) -> SemanticIds:
    semantic_ids = SemanticIds(config, SPEC)
    semantic_ids.fit(items)
    return semantic_ids


def example_items() -> ItemFeatures:
    torch.manual_seed(1)
    return random_items()


def mean_embedding(semantic_ids: SemanticIds, codes: list[int]) -> torch.Tensor:
    real = [code for code in codes if code != 0]
    if not real:
        return torch.zeros(DIM)
    return sum(semantic_ids.table.weight[code] for code in real) / len(real)


def test_each_level_of_each_kind_has_its_own_rows_and_zero_means_no_vector() -> None:
    items = example_items()
    codes_IC = fitted(items).codes_IC
    assert codes_IC.shape == (SPEC.n_items, 3 * 2)
    assert codes_IC.dtype == torch.int64
    for position in range(6):
        present_I = items.vectors_of(("fused", "text", "image")[position // 2])[1][: SPEC.n_items]
        assert not codes_IC[~present_I, position].any()
        rows = set(codes_IC[present_I, position].tolist())
        assert rows <= set(range(1 + 4 * position, 5 + 4 * position))
        assert len(rows) > 1


def test_codes_are_the_quantiser_output_plus_the_offset_of_their_position() -> None:
    items = example_items()
    semantic_ids = fitted(items)
    codes_IL = semantic_ids.quantisers["text"](items.text_vectors_ID)[: SPEC.n_items]
    present_I = items.text_present_I[: SPEC.n_items]
    expected = codes_IL + torch.tensor([1 + 2 * 4, 1 + 3 * 4])
    assert torch.equal(semantic_ids.codes_IC[present_I, 2:4], expected[present_I])


def test_the_embedding_of_an_item_is_the_mean_over_its_codes() -> None:
    items = example_items()
    semantic_ids = fitted(items)
    ids = [3, 0, 7, 3, 39, 12, 20]
    actual_ND = semantic_ids(torch.tensor(ids), items)
    expected = [mean_embedding(semantic_ids, semantic_ids.codes_IC[item].tolist()) for item in ids]
    torch.testing.assert_close(actual_ND, torch.stack(expected))
    assert not actual_ND[1].any()


def test_items_added_after_training_are_coded_by_their_vectors() -> None:
    items = example_items()
    semantic_ids = fitted(items)
    twin, unlike = 5, SPEC.n_items + 1
    n_rows = len(items.present_I)
    order = torch.arange(n_rows)
    order[SPEC.n_items] = twin  # a new item with all features of item 5
    renewed = dataclasses.replace(
        items,
        **{field.name: getattr(items, field.name)[order] for field in dataclasses.fields(items)},
    )
    nowhere = n_rows + 50
    ids = torch.tensor([twin, SPEC.n_items, unlike, nowhere])
    actual_ND = semantic_ids(ids, renewed)
    assert actual_ND[0].any()
    assert torch.equal(actual_ND[0], actual_ND[1])
    assert not torch.equal(actual_ND[0], actual_ND[2])
    assert not actual_ND[3].any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(semantic_ids(ids, renewed), actual_ND)


def test_codes_depend_only_on_their_own_seed() -> None:
    items = example_items()
    first = fitted(items).codes_IC
    torch.manual_seed(99)
    assert torch.equal(fitted(items).codes_IC, first)
    other = fitted(items, dataclasses.replace(CONFIG, code_seed=1)).codes_IC
    assert not torch.equal(other, first)


def test_kinds_of_vectors_that_no_item_has_get_no_codes() -> None:
    spec = dataclasses.replace(SPEC, text_dim=0)
    assert SemanticIds(CONFIG, spec).codes_IC.shape == (SPEC.n_items, 2 * 2)
    config = dataclasses.replace(CONFIG, fused_codes=False, image_codes=False)
    with pytest.raises(
        ValueError, match=r"to encode as semantic ids \(configured: text\); set fused_codes"
    ):
        SemanticIds(config, spec)
    config = dataclasses.replace(config, text_codes=False)
    with pytest.raises(ValueError, match=r"to encode as semantic ids \(configured: none\)"):
        SemanticIds(config, SPEC)


def test_the_modalities_are_those_that_the_model_encodes_or_reads() -> None:
    assert CONFIG.modalities == ("text", "image")
    fused = dataclasses.replace(CONFIG, text_codes=False, image_codes=False)
    assert fused.modalities == ()
    with_image = dataclasses.replace(fused, features=FeatureConfig(image_vectors=True))
    assert with_image.modalities == ("image",)


def test_the_model_equals_its_plain_form() -> None:
    items = example_items()
    batch = random_batch(24, items)
    model = small_model("din_semantic_ids", items).double()
    assert isinstance(model, DinSemanticIds)
    with torch.no_grad():
        for parameter in [*model.tower.parameters(), *model.attention.parameters()]:
            parameter.normal_(0, 0.5)
    semantic_ids = model.semantic_ids
    codes_of_new = semantic_ids.codes_IC.new_tensor(
        [
            plain_codes(semantic_ids, items, item)
            for item in range(SPEC.n_items, len(items.present_I))
        ]
    )
    codes_IC = torch.cat([semantic_ids.codes_IC, codes_of_new])

    def item_features(ids: list[int]) -> torch.Tensor:
        semantic = []
        for item in ids:
            rows = [semantic_ids.table.weight[code] for code in codes_IC[item].tolist() if code]
            none = torch.zeros(semantic_ids.table.embedding_dim, dtype=torch.float64)
            semantic.append(sum(rows) / len(rows) if rows else none)
        plain_features = plain_item_features(model.features, items, ids)
        return torch.cat([plain_features, torch.stack(semantic)], dim=1)

    plain_B = plain_din_logits(model, batch, item_features)
    assert plain_B.std() > 0.1
    torch.testing.assert_close(model(batch), plain_B, atol=1e-9, rtol=1e-9)


def plain_codes(semantic_ids: SemanticIds, items: ItemFeatures, item: int) -> list[int]:
    """Return the table rows of an item's codes from plain distances, one position after another."""
    rows, position = [], 0
    for kind in ("fused", "text", "image"):
        vectors_ID, present_I = items.vectors_of(kind)
        residual_D = vectors_ID[item].double()
        for centroids_KD in semantic_ids.quantisers[kind].centroids_LKD:
            code = int((centroids_KD - residual_D).square().sum(1).argmin())
            residual_D = residual_D - centroids_KD[code]
            rows.append(1 + position * len(centroids_KD) + code if present_I[item] else 0)
            position += 1
    return rows


def test_saved_weights_load_into_a_new_model() -> None:
    items = example_items()
    batch = random_batch(16, items)
    model = small_model("din_semantic_ids", items)
    again = build_model(SMALL_MODELS["din_semantic_ids"], SPEC).eval()
    with torch.no_grad():
        assert not torch.equal(again(batch), model(batch))
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(batch), model(batch))


def test_the_codes_do_not_depend_on_train_rows() -> None:
    items = example_items()
    train, histories = random_train_rows()
    models = []
    for rows in (train, train.take(torch.arange(10).numpy())):
        model = DinSemanticIds(CONFIG, SPEC)
        model.fit_statistics(items, rows, histories)
        models.append(model)
    assert torch.equal(*(model.semantic_ids.codes_IC for model in models))


def test_the_preset_has_a_row_for_every_code_of_title_and_cover() -> None:
    model = load_preset("din_semantic_ids").model
    assert isinstance(model, DinSemanticIdsConfig)
    with torch.device("meta"):
        spec = FeatureSpec(n_users=5, n_items=7, n_tags=3, text_dim=384, image_dim=1024)
        built = DinSemanticIds(model, spec)
    assert built.semantic_ids.table.weight.shape == (1 + 2 * 4 * 256, 64)

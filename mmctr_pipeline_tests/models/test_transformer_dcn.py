"""Transformer_DCN equals its plain padded form in float64."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from mmctr_pipeline.models.batch import Batch, FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import TransformerDcnConfig
from mmctr_pipeline.models.transformer_dcn import TransformerDcn
from mmctr_pipeline.presets.preset import load_preset
from mmctr_pipeline_tests.models.layers.ragged_case import result_and_gradients
from mmctr_pipeline_tests.models.zoo import (
    SMALL_MODELS,
    SPEC,
    random_batch,
    random_items,
    small_model,
)

KEPT_POSITIONS, WIDTH = 3, 8
LENGTHS = [0, 1, 2, 3, 4, 8, 5, 0, 3, 1] * 12


def float64_batch(lengths: list[int]) -> Batch:
    torch.manual_seed(5)
    batch = random_batch(len(lengths), random_items(), lengths=lengths)
    items = batch.items
    vectors = {
        name: getattr(items, name).double()
        for name in ("vectors_ID", "text_vectors_ID", "image_vectors_ID")
    }
    return dataclasses.replace(batch, items=dataclasses.replace(items, **vectors))


def float64_model() -> TransformerDcn:
    items = float64_batch(LENGTHS).items
    model = small_model("transformer_dcn", items).double()
    assert isinstance(model, TransformerDcn)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias, std=0.3)
    return model


def plain_logits(model: TransformerDcn, batch: Batch, inverted: bool = False) -> torch.Tensor:
    """Return the logits as in the papers, on left-padded histories.

    With `inverted`, attention ignores the real positions instead of the padding, as in the widely
    copied original code. Rows without padding are an exception, since nothing would be left.
    """
    features = model.features(batch)
    pair_dim = 2 * model.features.item_dim
    layer = nn.TransformerEncoderLayer(pair_dim, 2, 8, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    encoder_weights = dict(model.encoder.named_parameters())
    histories = features.history_TD.split(batch.history_offsets.diff().tolist())
    inputs = []
    for target_D, context_C, history_LD in zip(
        features.item_BD, features.context_BC, histories, strict=True
    ):
        n_real = len(history_LD)
        padded_LD = torch.cat([history_LD.new_zeros(WIDTH - n_real, pair_dim // 2), history_LD])
        pairs_LD = torch.cat([padded_LD, target_D.expand(WIDTH, -1)], dim=1)
        is_padding_L = torch.arange(WIDTH) < WIDTH - n_real
        if n_real == 0:
            encoded_LD, top_D = torch.zeros_like(pairs_LD), torch.zeros(pair_dim).double()
        else:
            hidden_L = ~is_padding_L & (n_real < WIDTH) if inverted else is_padding_L
            encoded_LD = functional_call(
                encoder,
                encoder_weights,
                (pairs_LD[None],),
                {"src_key_padding_mask": hidden_L[None]},
            )[0]
            top_D = encoded_LD[~is_padding_L].amax(0)
            encoded_LD = encoded_LD.masked_fill(is_padding_L[:, None], 0.0)
        newest_F = encoded_LD[-KEPT_POSITIONS:].flatten()
        inputs.append(torch.cat([newest_F, model.pooled(top_D), target_D, context_C]))
    x_BF = torch.stack(inputs)
    crossed_BF = x_BF
    for cross in model.cross.layers:
        crossed_BF = x_BF * cross(crossed_BF) + crossed_BF
    deep_BH = x_BF
    for linear in (model.deep_first, *(m for m in model.deep if isinstance(m, nn.Linear))):
        deep_BH = torch.relu(linear(deep_BH))
    joined_BH = torch.cat([deep_BH, crossed_BF], dim=1)
    for linear in (model.head_first, *(m for m in model.head if isinstance(m, nn.Linear))):
        joined_BH = torch.relu(linear(joined_BH))
    return functional.linear(joined_BH, model.logit.weight, model.logit.bias).squeeze(1)


@pytest.mark.parametrize("lengths", [LENGTHS, sorted(LENGTHS), [2, 1], [0, 0, 5]])
def test_logits_and_gradients_equal_the_plain_form(lengths: list[int]) -> None:
    model, batch = float64_model(), float64_batch(lengths)
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours = result_and_gradients(lambda: model(batch), used)
    theirs = result_and_gradients(lambda: plain_logits(model, batch), used)
    assert torch.count_nonzero(ours[0]) > 0
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, atol=1e-9, rtol=1e-9)


def test_an_inverted_mask_would_change_the_logits() -> None:
    model, batch = float64_model(), float64_batch(LENGTHS)
    logits_B = model(batch)
    torch.testing.assert_close(logits_B, plain_logits(model, batch), atol=1e-9, rtol=0)
    assert (logits_B - plain_logits(model, batch, inverted=True)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("rates", "varies"), [((0.0, 0.0), False), ((0.3, 0.0), True), ((0.0, 0.3), True)]
)
def test_dropout_of_transformer_and_tower_acts_in_training_only(
    rates: tuple[float, float], varies: bool
) -> None:
    config = SMALL_MODELS["transformer_dcn"]
    assert isinstance(config, TransformerDcnConfig)
    config = dataclasses.replace(
        config,
        features=dataclasses.replace(config.features, unknown_rate=0.0),
        transformer_dropout=rates[0],
        dropout=rates[1],
    )
    model, batch = build_model(config, SPEC).double(), float64_batch(LENGTHS)
    assert torch.equal(model(batch), model(batch)) is not varies
    model.eval()
    assert torch.equal(model(batch), model(batch))


@pytest.mark.cuda
def test_a_padded_batch_on_a_gpu_gives_the_same_logits_and_gradients() -> None:
    model, batch = float64_model(), float64_batch(LENGTHS)
    parameters = list(model.parameters())
    expected = result_and_gradients(lambda: model(batch), parameters)
    device = torch.device("cuda")
    model.to(device)
    tensors = {
        field.name: value.to(device)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), torch.Tensor)
    }
    tensors["history_T"] = functional.pad(tensors["history_T"], (0, 9))
    moved = dataclasses.replace(batch, **tensors, items=batch.items.to(device))
    actual = result_and_gradients(lambda: model(moved).cpu(), list(model.parameters()))
    for theirs, ours in zip(expected, actual, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("empty", ["hidden_dims", "head_hidden_dims"])
def test_networks_without_a_hidden_layer_are_refused(empty: str) -> None:
    config = dataclasses.replace(SMALL_MODELS["transformer_dcn"], **{empty: ()})
    with pytest.raises(ValueError, match="needs a hidden layer in hidden_dims"):
        build_model(config, FeatureSpec(n_users=5, n_items=5, vector_dim=4))


def test_the_presets_have_the_settings_and_the_size_of_the_recipes() -> None:
    recipe, first_place = load_preset("transformer_dcn"), load_preset("transformer_dcn_momo")
    assert recipe.model == first_place.model
    assert dataclasses.replace(recipe.training, max_epochs=100) == first_place.training
    assert isinstance(recipe.model, TransformerDcnConfig)
    training = recipe.training
    assert (training.max_epochs, training.batch_size, first_place.training.patience) == (1, 128, 5)
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("adam", 5e-4, 0)
    assert (training.label_smoothing, training.pairwise_weight) == (0, 0)
    assert recipe.encoders.text.model == recipe.encoders.image.model == "ViT-B-32/openai"
    assert (recipe.fusion.method, recipe.fusion.dim) == ("attention", 128)

    item, context, hidden = 64 + 64 + 128, 64 + 64, (1024, 512, 256)
    pair = 2 * item
    assert pair == 512
    attention = pair * 3 * pair + 3 * pair + pair * pair + pair
    feed_forward = pair * 256 + 256 + 256 * pair + pair
    width = 16 * pair + pair + item + context
    tower = sum(a * b + b for a, b in zip((width, *hidden), hidden, strict=False))
    head = (width + 256) * 64 + 64 + 64 * 32 + 32 + 32 + 1
    spec = FeatureSpec(n_users=2, n_items=100, vector_dim=128, n_tags=50, n_levels=11)
    with torch.device("meta"):
        model = build_model(recipe.model, spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == (
        2 * (attention + feed_forward + 4 * pair)
        + pair * pair
        + pair
        + 3 * (width * width + width)
        + tower
        + head
        + (101 + 50 + 2 * 11) * 64  # with a row for unknown items
        + 128 * 128
    )

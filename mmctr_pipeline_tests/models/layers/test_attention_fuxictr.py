"""Our DIN attention equals that of FuxiCTR with the same weights."""

import pytest
import torch

from mmctr_pipeline.models.config import Activation, DinAttentionSettings
from mmctr_pipeline.models.layers.attention import TargetAttention
from mmctr_pipeline.models.layers.segments import Segments

pytestmark = pytest.mark.bench

DIM, WIDTH = 10, 12
HIDDEN_DIMS = (16, 8)


def both_attentions(
    activation: Activation, softmax: bool
) -> tuple[TargetAttention, torch.nn.Module]:
    """Return our attention and that of FuxiCTR, with the same random weights."""
    layers = pytest.importorskip("fuxictr.pytorch.layers", reason="needs the bench extra")
    config = DinAttentionSettings(
        attention_hidden_dims=HIDDEN_DIMS,
        attention_activation=activation,
        attention_softmax=softmax,
        attention_dropout=0.0,
    )
    ours = TargetAttention(DIM, config)
    theirs = layers.DIN_Attention(
        DIM,
        attention_units=list(HIDDEN_DIMS),
        hidden_activations=activation,
        use_softmax=softmax,
    )
    linears = [layer for layer in theirs.modules() if isinstance(layer, torch.nn.Linear)]
    for mine, their in zip([ours.first, *ours.further, ours.score], linears, strict=True):
        torch.nn.init.normal_(mine.bias)
        their.load_state_dict(mine.state_dict())
    if activation == "dice":
        dices = [layer for layer in theirs.modules() if isinstance(layer, layers.Dice)]
        for mine, their in zip(ours.activations, dices, strict=True):
            torch.nn.init.normal_(mine.alpha_D)
            mine.running_mean_D.normal_()
            mine.running_variance_D.uniform_(0.5, 2)
            with torch.no_grad():
                their.alpha.copy_(mine.alpha_D)
            their.bn.running_mean.copy_(mine.running_mean_D)
            their.bn.running_var.copy_(mine.running_variance_D)
    return ours, theirs


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Assert equality up to float32 rounding, relative to the largest value."""
    scale = float(theirs.detach().abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(ours, theirs, atol=3e-6 * scale, rtol=0)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_outputs_and_gradients_equal_those_of_fuxictr(
    activation: Activation, softmax: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = both_attentions(activation, softmax)
    ours.eval()
    theirs.eval()
    # With softmax, no history is empty here: FuxiCTR's softmax would average the padding, while
    # ours would give zero.
    length_B = torch.randint(int(softmax), WIDTH + 1, (40,))
    mask_BL = torch.arange(WIDTH) < length_B.unsqueeze(1)
    keys_BLD = torch.randn(40, WIDTH, DIM) * mask_BL.unsqueeze(2)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), length_B.cumsum(0)])
    segments = Segments.from_offsets(offsets, int(offsets[-1]))
    query_BD = torch.randn(40, DIM)
    assert_close(
        ours(query_BD, keys_BLD[mask_BL], segments),
        theirs(query_BD, keys_BLD, mask_BL),
    )
    ours(query_BD, keys_BLD[mask_BL], segments).square().mean().backward()
    theirs(query_BD, keys_BLD, mask_BL).square().mean().backward()
    their_first = next(x for x in theirs.modules() if isinstance(x, torch.nn.Linear))
    assert ours.first.weight.grad is not None
    assert their_first.weight.grad is not None
    assert_close(ours.first.weight.grad, their_first.weight.grad)


def test_dice_has_the_statistics_of_fuxictr_if_there_is_no_padding() -> None:
    torch.manual_seed(1)
    ours, theirs = both_attentions("dice", softmax=False)
    keys_BLD, query_BD = torch.randn(30, WIDTH, DIM), torch.randn(30, DIM)
    offsets = torch.arange(0, 30 * WIDTH + 1, WIDTH)
    segments = Segments.from_offsets(offsets, 30 * WIDTH)
    assert_close(
        ours(query_BD, keys_BLD.flatten(0, 1), segments),
        theirs(query_BD, keys_BLD, torch.ones(30, WIDTH)),
    )
    norms = [layer for layer in theirs.modules() if isinstance(layer, torch.nn.BatchNorm1d)]
    for mine, their in zip(ours.activations, norms, strict=True):
        torch.testing.assert_close(mine.running_mean_D, their.running_mean)
        torch.testing.assert_close(mine.running_variance_D, their.running_var)

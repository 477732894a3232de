"""CompactBert computes the same hidden states as the BERT of transformers."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from mmctr_pipeline.encoders import cpu_kernels
from mmctr_pipeline.encoders.text.bert import CompactBert

VOCABULARY = 100
LENGTHS = (12, 1, 7, 12, 3)


def bert_config(**changes: object) -> BertConfig:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    }
    return BertConfig(**{**sizes, **changes})


@pytest.fixture(scope="module")
def model() -> BertModel:
    """A model without weights of zero or one, so that forgetting any of them changes the result."""
    torch.manual_seed(0)
    model = BertModel(bert_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batch(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_BL = torch.randint(
        VOCABULARY, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1)
    )
    mask_BL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return tokens_BL, mask_BL


def expected(model: BertModel, tokens_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state


@pytest.mark.parametrize("lengths", [LENGTHS, (9, 9, 9), (1,)])
def test_hidden_states_equal_those_of_transformers_at_every_token(
    model: BertModel, lengths: tuple[int, ...]
) -> None:
    tokens_BL, mask_BL = batch(lengths)
    hidden_BLD = CompactBert(model, torch.float32)(tokens_BL, mask_BL)
    assert hidden_BLD.dtype == torch.float32
    torch.testing.assert_close(
        hidden_BLD[mask_BL.bool()],
        expected(model, tokens_BL, mask_BL)[mask_BL.bool()],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("is_packed", [False, True])
def test_bfloat16_is_close_and_does_not_change_the_model(
    model: BertModel, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_packed and not cpu_kernels.packed_linear_works():
        pytest.skip("this CPU does not multiply by packed bfloat16 weights")
    monkeypatch.setattr(cpu_kernels, "packed_linear_works", lambda: is_packed)
    tokens_BL, mask_BL = batch(LENGTHS)
    before = expected(model, tokens_BL, mask_BL)[mask_BL.bool()]
    hidden_BLD = CompactBert(model, torch.bfloat16)(tokens_BL, mask_BL)
    assert hidden_BLD.dtype == torch.bfloat16
    cosine = torch.cosine_similarity(hidden_BLD[mask_BL.bool()].float(), before)
    assert cosine.min() > 0.999
    after = expected(model, tokens_BL, mask_BL)[mask_BL.bool()]
    np.testing.assert_array_equal(after.numpy(), before.numpy())


def test_compact_bert_fits_only_models_whose_results_it_reproduces(model: BertModel) -> None:
    class OtherBert(BertModel):
        """A subclass, which may compute something else."""

    assert CompactBert.fits(model)
    assert not CompactBert.fits(None)
    assert not CompactBert.fits(OtherBert(bert_config()))
    distilled = DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=1, n_heads=4, hidden_dim=64
    )
    assert not CompactBert.fits(DistilBertModel(distilled))
    for change in ({"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"is_decoder": True}):
        assert not CompactBert.fits(BertModel(bert_config(**change)))

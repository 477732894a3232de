"""The plain form of recipe A is the same model as ours on the same rows, and learns."""

import dataclasses

import numpy as np
import pytest
import torch

import benchmarks.plain_recipe
from benchmarks.plain_recipe import (
    PlainRecipe,
    PlainRows,
    PlainTraining,
    loader,
    padded,
    plain_scores,
)
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.models.config import ImprovedMmctrConfig
from mmctr_pipeline.training.batch_source import BatchSource, feature_spec, item_features
from mmctr_pipeline.training.score import score
from mmctr_pipeline_tests.training.small_sample import small_sample

CPU = torch.device("cpu")


def test_histories_are_left_padded_and_keep_the_newest_hundred_items() -> None:
    table = padded(Ragged.from_lists([[5, 6], [], range(1, 104)]))
    assert table.dtype == np.int64
    assert table[0].tolist() == [0] * 98 + [5, 6]
    assert not table[1].any()
    assert table[2].tolist() == list(range(4, 104))


def test_the_plain_form_has_our_logits_with_our_weights() -> None:
    dataset, vectors = small_sample()
    items = item_features(dataset.items, vectors, ImprovedMmctrConfig())
    torch.manual_seed(1)
    ours = build_model(ImprovedMmctrConfig(), feature_spec(dataset, vectors, ImprovedMmctrConfig()))
    ours.fit_statistics(items, dataset.train, dataset.histories)
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if name.endswith("embedding.weight"):
                tensor[1:] = torch.randn_like(tensor[1:])
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(torch.randn_like(tensor) * 0.2)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    ours.eval()  # gives untrained rows the mean of the trained ones
    plain = PlainRecipe.for_dataset(dataset, vectors)
    plain.load_ours(ours.state_dict())

    valid = dataset.valid
    probabilities_N = score(ours, BatchSource(valid, dataset.histories, items, CPU))
    rows = PlainRows(valid, dataset.histories)
    batches = loader(rows, False, CPU)
    assert batches.batch_size == 2048
    plain_N = plain_scores(plain, batches, CPU)
    # Compare logits: near 0 and 1, probabilities would hide differences.
    logits_N, plain_logits_N = (
        torch.logit(torch.from_numpy(p)) for p in (probabilities_N, plain_N)
    )
    assert (logits_N - plain_logits_N).abs().max() < 1e-5
    assert logits_N.std() > 0.1
    n_ours, n_plain = (sum(p.numel() for p in model.parameters()) for model in (ours, plain))
    assert n_plain == n_ours


def test_at_full_size_the_plain_form_has_as_many_parameters_as_the_recipe() -> None:
    with torch.device("meta"):
        model = PlainRecipe(1_000_001, 91_718, torch.empty(91_718, 128))
    assert sum(p.numel() for p in model.parameters()) == 70_802_562


def test_three_epochs_train_every_parameter_and_raise_the_auc_of_the_train_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmarks.plain_recipe, "BATCH_SIZE", 512)
    dataset, vectors = small_sample(n_train=600, n_valid=20)
    torch.manual_seed(2)
    model = PlainRecipe.for_dataset(dataset, vectors)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    rows = PlainRows(dataset.train, dataset.histories)
    in_order = [rows[:]]  # one batch, without the workers of a loader
    untrained = auc(rows.label, plain_scores(model, in_order, CPU))

    training = PlainTraining(model, CPU)
    sizes = [list(training.epoch(loader(rows, True, CPU))) for _ in range(3)]
    assert sizes == [[512, 88]] * 3
    rates = [group["lr"] for group in training.optimizer.param_groups]
    # After three of the first cycle's five epochs (1 + cos(3 pi / 5)) / 2 of the rate remains.
    assert rates == pytest.approx(
        [1e-6 + 0.345492 * (rate - 1e-6) for rate in (2e-3, 5e-4)], rel=1e-5
    )
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not model.user_embedding.weight[0].any()
    assert not model.item_embedding.weight[0].any()
    assert auc(rows.label, plain_scores(model, in_order, CPU)) > untrained + 0.05


def test_rows_without_labels_are_refused() -> None:
    dataset, _ = small_sample(n_train=50, n_valid=20)
    unlabelled = dataclasses.replace(dataset.valid, label=None)
    with pytest.raises(ValueError, match="no labels"):
        PlainRows(unlabelled, dataset.histories)

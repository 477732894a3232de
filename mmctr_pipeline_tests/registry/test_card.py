"""The model card reports the quality, the training and the final fit of a model."""

import dataclasses
import math
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mmctr_pipeline.registry.card import epochs_table, model_card, popularity_table
from mmctr_pipeline_tests.registry.model_files import MODEL_FILE, unpadded


def bucket(
    name: str, times: tuple[int, int], n_rows: int, n_positive: int, auc: float | None
) -> dict[str, Any]:
    interval = None
    if auc is not None:
        interval = {"auc": auc, "low": auc - 0.01, "high": auc + 0.01}
    least, most = times
    return {
        "name": name,
        "least": least,
        "most": most,
        "n_rows": n_rows,
        "n_positive": n_positive,
        "auc": interval,
    }


EVALUATION: dict[str, Any] = {
    "by_user": {"auc": 0.7651, "n_groups": 1_234, "n_rows": 4_321},
    "calibration": {"error": 0.0123, "bins": [{}] * 15},
    "by_popularity": [
        bucket("cold", (0, 0), 1_200, 300, 0.61234),
        bucket("rare", (1, 5), 7, 7, None),
        bucket("popular", (6, 4_000), 9_000, 3_000, 0.85),
    ],
}


def test_the_popularity_table_explains_a_missing_auc() -> None:
    assert unpadded(popularity_table(EVALUATION)).splitlines()[2:] == [
        "| cold | 0 | 1,200 | 300 | 0.6123 | 0.6023 to 0.6223 |",
        "| rare | 1 to 5 | 7 | 7 | none | the rows are of one class |",
        "| popular | 6 to 4,000 | 9,000 | 3,000 | 0.8500 | 0.8400 to 0.8600 |",
    ]
    empty = {"by_popularity": [bucket("cold", (0, 0), 0, 0, None)]}
    assert unpadded(popularity_table(empty)).endswith("| cold | 0 | 0 | 0 | none | no rows |")


def test_the_card_reports_calibration_and_auc_by_user_and_by_popularity() -> None:
    card = model_card(dataclasses.replace(MODEL_FILE, evaluation=EVALUATION), "7")
    assert "0.7651, the mean over 1,234 users who have rows of both classes" in card
    assert "weighted by their 4,321 rows" in card
    assert "Expected calibration error: 0.0123, over 15 bins" in card
    assert popularity_table(EVALUATION) in card

    no_user = {**EVALUATION, "by_user": {"auc": None, "n_groups": 0, "n_rows": 0}}
    card = model_card(dataclasses.replace(MODEL_FILE, evaluation=no_user), "7")
    assert "AUC within the rows of a user: none, as no user has rows of both classes." in card


def test_the_card_of_a_final_fit_says_which_model_the_metrics_describe() -> None:
    final_fit = {"n_epochs": 2.5, "n_rows": 3_610_000, "train_loss": 0.5, "seconds": 9.0}
    final = dataclasses.replace(MODEL_FILE, final_fit=final_fit)
    sentence = "All figures are of the selection run, before the final fit on train and valid rows"
    assert sentence in model_card(final, "7")
    assert "from scratch on these 3,610,000 rows for 2.5 epochs" in model_card(final, "7")
    assert "final fit" not in model_card(MODEL_FILE, "7")


def test_the_epochs_table_shows_gradient_norms_if_they_were_recorded() -> None:
    (record,) = MODEL_FILE.history["epochs"]
    later = {**record, "epoch": 2, "gradient_norm": 0.1234, "largest_gradient_norm": 56.78}
    history = {**MODEL_FILE.history, "epochs": [record, later]}
    lines = unpadded(epochs_table(history)).splitlines()
    assert lines[0] == (
        "| epoch | train loss | valid AUC | gradient norm (largest) | learning rate | rows/s |"
    )
    assert lines[2:] == [
        "| **1** | 0.6000 | 0.8123 | | 0.002 | 1,234 |",
        "| 2 | 0.6000 | 0.8123 | 0.123 (56.8) | 0.002 | 1,234 |",
    ]


def test_the_card_says_why_an_auc_may_be_at_chance() -> None:
    causes = ["the order is reversed (1 - AUC is 0.8123)"]
    card = model_card(dataclasses.replace(MODEL_FILE, likely_causes=causes), "7")
    assert "Likely cause of the low AUC: the order is reversed (1 - AUC is 0.8123)." in card


def test_the_card_says_how_probabilities_are_calibrated() -> None:
    fitted = {"knots": [0.5], "slopes": [0.4, 1.2], "intercept": 0.1, "n_rows": 4_321}
    limited = {**EVALUATION, "calibration": {"error": 0.0123, "limit": 0.0145, "bins": [{}] * 15}}
    file = dataclasses.replace(MODEL_FILE, evaluation=limited, calibration=fitted)
    card = model_card(file, "7")
    assert "a monotone map of 2 linear segments, fitted on 4,321 valid rows" in card
    assert "error: 0.0123, over 15 bins of equally many rows. Chance alone gives a" in card
    assert "gives a calibrated model up to 0.0145." in card
    assert "The map is that of the selection run" not in card
    final_fit = {"n_epochs": 1.0, "n_rows": 9, "train_loss": 0.1, "seconds": 1.0}
    card = model_card(dataclasses.replace(file, final_fit=final_fit), "7")
    assert "The map is that of the selection run" in card
    assert "calibrated" not in model_card(MODEL_FILE, "7")


@pytest.mark.parametrize(
    "name", ["din", "a: [b]\n---\n# <script>alert(1)</script>", "'\"!!python/object:os.system"]
)
def test_the_metadata_is_yaml_that_the_hub_reads_whatever_the_names_are(name: str) -> None:
    metrics = {**MODEL_FILE.metrics, "valid_log_loss": 0.43, "valid_calibration_error": math.nan}
    file = dataclasses.replace(
        MODEL_FILE, model_config={"name": name}, data_name=name, metrics=metrics
    )
    card = ModelCard(model_card(file, "7"))
    assert card.data.library_name == "mmctr-pipeline"
    assert name in card.data.tags
    results = {each.metric_type: each for each in card.data.eval_results}
    assert set(results) == {"roc_auc", "log_loss"}, "an undefined metric is not reported"
    assert results["roc_auc"].metric_value == 0.81234
    assert results["roc_auc"].dataset_name == name
    assert card.text.lstrip().startswith("# ")

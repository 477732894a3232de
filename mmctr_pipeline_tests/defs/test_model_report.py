"""The asset `model_report`: its page and metadata, without a contest, and if it cannot be drawn."""

import dataclasses
from pathlib import Path

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.registry.champion import Champion
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import execute, only_error


def test_the_run_has_written_the_page_of_its_model(finished_run: FinishedRun) -> None:
    storage = finished_run.deployment.storage
    page = (storage / "latest_report.html").resolve()
    model = ModelFile.load(page.with_name("model.pt"))
    text = page.read_text("utf-8")
    assert f"<dd>{model.metrics['valid_auc']:.4f} (" in text
    assert "<dd>champion</dd>" in text
    assert "The first champion: " in text
    assert text.count('"data:image/jpeg;base64,') > 100


def test_a_model_without_a_contest_is_reported_too(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    for name in ("champion.json", "contest.json"):
        (deployment.storage / name).unlink()
    result = execute(deployment, "model_report")
    assert result.success
    page = (deployment.storage / "latest_report.html").read_text("utf-8")
    assert "This version has taken part in no contest yet" in page
    (event,) = result.asset_materializations_for_node("model_report")
    model = ModelFile.load(deployment.storage / "latest_model.pt")
    assert f"{model.metrics['valid_auc']:.4f}" in str(event.metadata["summary"].value)
    for name in ("AUC by slice", "share of clicks by probability"):
        assert str(event.metadata[name].value).startswith(f"![{name}](data:image/png;base64,")


def test_a_report_that_fails_leaves_the_submission_alone(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    deployment = finished_run.copy(tmp_path)
    folder = deployment.storage / "train_dataset"
    dataset = CtrDataset.read(folder)
    dataclasses.replace(dataset, fingerprint="other").write(folder.resolve())
    champion, submission = Champion.read(deployment.storage), deployment.storage / "submission.csv"
    before = submission.read_bytes()
    submission.unlink()
    result = execute(deployment, "submission_csv", "model_report")
    assert not result.success
    assert "no report can be drawn of this model: train_dataset has changed" in only_error(result)
    assert submission.read_bytes() == before
    assert Champion.read(deployment.storage) == champion

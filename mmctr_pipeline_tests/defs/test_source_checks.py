"""Bad data block the night: nothing is encoded or trained, and nothing is submitted."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.definitions import defs
from mmctr_pipeline.monitoring.night import BlockedDataError, Night
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment, in_process
from mmctr_pipeline_tests.defs.test_definitions import SOURCES

EVERYTHING = dg.AssetSelection.assets(*SOURCES) | dg.AssetSelection.all()
NOT_NEEDED_BY_A_CHECK = {f"observe_{name}" for name in SOURCES} | {"source_checks"}


def with_fewer_clicks(data: Path, share_kept: float = 0.6) -> None:
    """Set the label of random clicks in train and valid to 0."""
    for name in ("train", "valid"):
        path = data / "MicroLens_1M_x1" / f"{name}.parquet"
        table = pq.read_table(path)
        is_kept = np.random.default_rng(0).random(len(table)) < share_kept
        label = table.column("label").to_numpy() * is_kept
        index = table.schema.get_field_index("label")
        pq.write_table(table.set_column(index, "label", pa.array(label)), path)


def cut_in_the_middle(data: Path) -> None:
    """Leave half of the bytes of train."""
    path = data / "MicroLens_1M_x1" / "train.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_most_covers(data: Path) -> None:
    """Remove most images."""
    for path in sorted((data / "item_images").iterdir())[10:]:
        path.unlink()


def with_another_column(data: Path) -> None:
    """Add a column to item_feature, which only warns."""
    path = data / "item_feature.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("price", pa.array(np.zeros(len(table)))), path)


@pytest.fixture
def night(finished_run: FinishedRun, tmp_path: Path) -> Deployment:
    """A deployment after a good night on data of its own, which a test may change."""
    deployment = finished_run.copy(tmp_path)
    data = shutil.copytree(deployment.data, tmp_path / "data")
    accepted = Night.read(deployment.storage, "accepted")
    assert accepted is not None
    profile = dataclasses.replace(accepted.profile, folder=str(data.resolve()))
    dataclasses.replace(accepted, profile=profile).write(deployment.storage, "accepted")
    return dataclasses.replace(deployment, data=data)


def execute(
    deployment: Deployment, selection: dg.AssetSelection = EVERYTHING
) -> dg.ExecuteInProcessResult:
    job = in_process(deployment.data, deployment.storage, selection)
    return job.execute_in_process(raise_on_error=False)


def data_gates(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    evaluations = result.get_asset_check_evaluations()
    return [each for each in evaluations if each.check_name == "data_gate"]


def started_steps(result: dg.ExecuteInProcessResult) -> set[str]:
    events = result.filter_events(lambda event: event.is_step_start)
    return {event.step_key for event in events if event.step_key}


def artefacts(storage: Path) -> dict[str, int]:
    """Return the files in storage, except records of nights, with the times of their last write."""
    return {
        str(path.relative_to(storage)): path.stat().st_mtime_ns
        for path in storage.rglob("*")
        if path.is_file()
        and "monitoring" not in path.parts
        and not path.name.startswith(("run_", "events"))
    }


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_fewer_clicks, "train.label_rate: 0.2"),
        (without_most_covers, "item_images.coverage: 0.0"),
        (cut_in_the_middle, "train.parquet: not a readable parquet file"),
    ],
)
def test_bad_data_stop_everything_with_the_same_reason_at_each_source(
    spoil: Callable[[Path], None], reason: str, night: Deployment
) -> None:
    before, accepted = artefacts(night.storage), Night.read(night.storage, "accepted")
    spoil(night.data)
    result = execute(night)
    assert not result.success
    assert started_steps(result) == NOT_NEEDED_BY_A_CHECK
    evaluations = data_gates(result)
    assert {each.asset_key.to_user_string() for each in evaluations} == {*SOURCES}
    assert {each.passed for each in evaluations} == {False}
    assert {each.severity for each in evaluations} == {dg.AssetCheckSeverity.ERROR}
    (description,) = {each.description for each in evaluations}
    assert reason in str(description)
    assert "Fix: " in str(description)
    assert artefacts(night.storage) == before
    assert Night.read(night.storage, "accepted") == accepted
    (event,) = read_events(night.storage)
    assert (event.kind, event.run_id) == ("night_blocked", result.run_id)
    assert event.headline.startswith("data_gate: ")
    assert reason in event.headline


def test_the_preflight_stops_everything_before_anything_is_encoded(night: Deployment) -> None:
    before = artefacts(night.storage)
    job = in_process(night.data, night.storage, EVERYTHING)
    encoders = {"text_embeddings": "/no/model", "image_embeddings": "local-dir:/no/clip"}
    ops = {name: {"config": {"encoder": {"model": model}}} for name, model in encoders.items()}
    result = job.execute_in_process(run_config={"ops": ops}, raise_on_error=False)
    assert started_steps(result) == NOT_NEEDED_BY_A_CHECK
    assert {each.passed for each in data_gates(result)} == {True}
    (failed,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert (failed.check_name, failed.asset_key.to_user_string()) == ("preflight", "item_feature")
    for words in ("there is no folder /no/model. Fix: ", "there is no folder /no/clip"):
        assert words in str(failed.description)
    findings = [record.data for record in failed.metadata["findings"].records]
    assert [each["verdict"] for each in findings].count("error") == 2
    assert artefacts(night.storage) == before
    (event,) = read_events(night.storage)
    assert event.kind == "night_blocked"
    assert event.headline.startswith("preflight: text encoder: encoders.text.model: ")


def test_the_preflight_leaves_out_what_the_run_does_not_make(night: Deployment) -> None:
    job = in_process(night.data, night.storage, dg.AssetSelection.assets(*SOURCES, "train_dataset"))
    assert job.execute_in_process(raise_on_error=False).success
    checks = dg.AssetSelection.assets("train_dataset") | dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey("item_feature"), "preflight")
    )
    result = in_process(night.data, night.storage, checks).execute_in_process()
    preflight = result.get_asset_check_evaluations()[0]
    found = {record.data["check"] for record in preflight.metadata["findings"].records}
    assert found == {"device", "storage", "tables", "train labels", "valid labels"}


def test_a_change_that_only_warns_is_shown_at_its_source_and_stops_nothing(
    night: Deployment,
) -> None:
    with_another_column(night.data)
    result = execute(night, dg.AssetSelection.assets(*SOURCES, "train_dataset"))
    assert result.success
    evaluations = {each.asset_key.to_user_string(): each for each in data_gates(result)}
    assert {name for name, each in evaluations.items() if not each.passed} == {"item_feature"}
    warned = evaluations["item_feature"]
    assert warned.severity is dg.AssetCheckSeverity.WARN
    assert warned.description == "item_feature: price (double) is new"
    assert warned.metadata["item_feature.rows"].value == 225
    shown = evaluations["interactions"].metadata
    assert shown["train.rows"].value == 6000
    assert shown["largest PSI"].value == pytest.approx(0)
    records = [record.data for record in shown["measures"].records]
    (label_rate,) = [each for each in records if each["column"] == "train.label_rate"]
    assert (label_rate["verdict"], label_rate["block above"]) == ("ok", "0.25")


def test_blocked_data_are_not_submitted_by_other_selections_until_they_are_accepted(
    night: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fewer_clicks(night.data)
    execute(night)
    downstream = dg.AssetSelection.assets("train_dataset", "submission_csv")
    for last in ("champion", "submission_csv"):
        result = execute(night, dg.AssetSelection.assets("train_dataset", last))
        (failure,) = result.get_step_failure_events()
        assert failure.step_key == last
        assert failure.step_failure_data.error is not None
        assert BlockedDataError.__name__ in failure.step_failure_data.error.to_string()

    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(night.storage))
    assert main(["accept"]) == 0
    assert execute(night, dg.AssetSelection.checks_for_assets(*SOURCES)).success
    assert execute(night, downstream).success


def test_one_source_can_be_checked_alone_and_assets_can_be_built_without_the_check(
    night: Deployment,
) -> None:
    cut_in_the_middle(night.data)
    result = execute(night, dg.AssetSelection.checks_for_assets("item_feature"))
    (evaluation,) = data_gates(result)
    assert (evaluation.asset_key.to_user_string(), evaluation.passed) == ("item_feature", False)
    alone = in_process(night.data, night.storage, dg.AssetSelection.assets("text_embeddings"))
    assert set(alone.graph.node_dict) == {"text_embeddings", "text_embeddings_checks"}
    observing = defs.resolve_job_def("observe_sources")
    assert set(observing.graph.node_dict) == {f"observe_{name}" for name in SOURCES}


@pytest.mark.slow
def test_nights_of_good_shifted_corrupt_and_good_data(night: Deployment) -> None:
    good = night.folder / "good"
    shutil.copytree(night.data, good)
    first, before = Night.read(night.storage, "accepted"), artefacts(night.storage)
    assert first is not None
    for spoil, status, reason in (
        (with_fewer_clicks, 1, "train.label_rate: 0.2"),
        # Here no run is started.
        (cut_in_the_middle, 2, "train.parquet: not a readable parquet file"),
    ):
        spoil(night.data)
        result = night.run_pipeline()
        assert result.returncode == status, result.stdout
        assert reason in result.stdout
        assert "Traceback" not in result.stdout
        for name in ("text_embeddings", "image_embeddings", "train_dataset"):
            assert not re.search(rf" {name} +started$", result.stdout, re.MULTILINE)
        assert artefacts(night.storage) == before
        assert Night.read(night.storage, "accepted") == first
    shutil.rmtree(night.data)
    shutil.copytree(good, night.data)
    result = execute(night, dg.AssetSelection.assets(*SOURCES, "train_dataset"))
    assert result.success
    descriptions = {each.description for each in result.get_asset_check_evaluations()}
    assert "no measure is above its warning level" in descriptions

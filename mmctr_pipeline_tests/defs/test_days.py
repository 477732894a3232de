"""A run on logs by day is tagged with its day, and past days are run as partitions of a job."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs import days, run
from mmctr_pipeline.defs.assets import sources
from mmctr_pipeline.defs.config import current_deployment, deployment_preset
from mmctr_pipeline.defs.days import DAY_TAG
from mmctr_pipeline.environment import Deployment as Environment
from mmctr_pipeline.monitoring.night import Night
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline_tests.data import small_data
from mmctr_pipeline_tests.data.day_data import FIRST, FOURTH, SECOND, THIRD, write_day, write_days
from mmctr_pipeline_tests.defs.running import Deployment, in_process, only_error
from mmctr_pipeline_tests.monitoring.drawn_nights import Population

NOT_WIDENED = {"min_valid_rows": 1}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_days(tmp_path / "data")


def _build(
    data: Path, instance: dg.DagsterInstance, tag: str | None = None, **settings: Any
) -> dg.ExecuteInProcessResult:
    """Observe the interactions and materialise `train_dataset` in one run."""
    selection = dg.AssetSelection.assets("interactions", "train_dataset")
    job = in_process(data, data.parent / "storage", selection)
    config = {"data": {**NOT_WIDENED, **settings}}
    return job.execute_in_process(
        run_config={
            "ops": {name: {"config": config} for name in ("train_dataset", "source_checks")}
        },
        instance=instance,
        tags={} if tag is None else {DAY_TAG: tag},
        raise_on_error=False,
    )


def _day_of_run(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str | None:
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run.tags.get(DAY_TAG)


def _dataset(data: Path) -> CtrDataset:
    return CtrDataset.read(data.parent / "storage" / "train_dataset")


@pytest.fixture
def preset_without_widening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    preset = tmp_path / "preset.yaml"
    preset.write_text("extends: sample\ndata: {min_valid_rows: 1}\n")
    monkeypatch.setenv("MMCTR_PRESET", str(preset))
    for function in (current_deployment, deployment_preset):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (current_deployment, deployment_preset):
        function.cache_clear()


@pytest.mark.usefixtures("preset_without_widening")
def test_a_corrupt_part_file_is_reported_by_the_data_gate_and_not_by_the_observation(
    data: Path, instance: dg.DagsterInstance
) -> None:
    (part,) = (data / "interactions" / f"day={FOURTH}").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    result = _build(data, instance)
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("data_gate", False)
    assert f"day={FOURTH}/{part.name}: not a readable parquet file" in str(check.description)
    assert not (data.parent / "storage" / "train_dataset").exists()


@pytest.mark.usefixtures("preset_without_widening")
def test_without_a_day_the_run_is_tagged_with_the_latest_complete_day(
    data: Path, instance: dg.DagsterInstance
) -> None:
    result = _build(data, instance)
    assert result.success
    assert _day_of_run(instance, result) == FOURTH
    (event,) = result.get_asset_materialization_events()
    shown = {name: value.value for name, value in event.materialization.metadata.items()}
    assert shown["day"] == FOURTH
    assert shown["train days"] == f"{FIRST} to {THIRD} (3)"
    assert shown["valid days"] == f"{FOURTH} to {FOURTH} (1)"
    assert shown["configuration"]["data"]["day"] == FOURTH
    dataset = _dataset(data)
    assert (dataset.day, dataset.first_valid_day) == (FOURTH, FOURTH)
    assert dataset.provenance["config"]["data"]["day"] == FOURTH


@pytest.mark.usefixtures("preset_without_widening")
def test_the_tag_of_a_run_chooses_its_day_and_the_config_overrides_it(
    data: Path, instance: dg.DagsterInstance
) -> None:
    # A retried run keeps its tags, and so the day of the night, although later days are complete.
    result = _build(data, instance, tag=SECOND)
    assert result.success
    assert (_day_of_run(instance, result), _dataset(data).day) == (SECOND, SECOND)
    tagged = result.asset_observations_for_node("observe_interactions")[0].data_version
    result = _build(data, instance, tag=SECOND, day=THIRD)
    assert (_day_of_run(instance, result), _dataset(data).day) == (THIRD, THIRD)
    assert result.asset_observations_for_node("observe_interactions")[0].data_version == tagged


def test_a_day_is_refused_for_data_without_days(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    data = small_data.write_data(tmp_path / "data")
    result = _build(data, instance)
    assert _day_of_run(instance, result) is None
    assert _dataset(data).day == ""
    assert "has no logs by day" in only_error(_build(data, instance, day=FIRST))


def _deployed(
    data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str
) -> Iterator[None]:
    for name, value in Deployment(data, folder).environment(**variables).items():
        monkeypatch.setenv(name, value)
    for function in (current_deployment, deployment_preset):
        function.cache_clear()
    yield
    for function in (current_deployment, deployment_preset):
        function.cache_clear()


@pytest.fixture
def deployed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The deployment of this process, on logs by day."""
    yield from _deployed(data, tmp_path, monkeypatch, MMCTR_TIMEZONE="Europe/Berlin")


def _with_days() -> dg.Definitions:
    assets, jobs = days.day_definitions()
    return dg.Definitions(
        assets=[*defs.assets, *assets],
        asset_checks=defs.asset_checks,
        resources=defs.resources,
        jobs=[*defs.jobs, *jobs],
    )


@pytest.mark.usefixtures("deployed")
def test_the_job_has_a_partition_for_each_day_from_the_first_day_of_the_data_on() -> None:
    job = _with_days().resolve_job_def("day_pipeline")
    partitions = job.partitions_def
    assert isinstance(partitions, dg.DailyPartitionsDefinition)
    assert partitions.get_partition_keys()[:3] == [FIRST, SECOND, THIRD]
    assert partitions.timezone == "Europe/Berlin"
    assert job.partitioned_config is not None
    config = job.partitioned_config.get_run_config_for_partition_key(THIRD)["ops"]
    assert config == {
        name: {"config": {"data": {"day": THIRD}}}
        for name in ("fused_pca", "source_checks", "train_dataset")
    }
    assert job.partitioned_config.get_tags_for_partition_key(THIRD)[DAY_TAG] == THIRD
    assert job.tags["mmctr/storage"] == str(defs.resolve_job_def("train").tags["mmctr/storage"])


@pytest.mark.usefixtures("deployed")
def test_the_other_jobs_and_assets_have_no_partitions() -> None:
    definitions = _with_days()
    graph = definitions.resolve_asset_graph()
    partitioned = [
        key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).is_partitioned
    ]
    # Dagster's UI offers the partitions of a job only if one of its assets has partitions.
    assert partitioned == ["day_summary"]
    for name in ("full_pipeline", "train", "encode", "observe_sources"):
        job = definitions.resolve_job_def(name)
        assert job.partitions_def is None
        assert dg.AssetKey("day_summary") not in job.asset_layer.executable_asset_keys


def test_without_logs_by_day_there_is_no_job_for_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data.write_data(tmp_path / "data")
    for _ in _deployed(data, tmp_path, monkeypatch):
        assert days.day_definitions() == ([], [])


def test_a_fault_of_the_data_folder_does_not_keep_the_definitions_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_days(tmp_path / "data")
    (data / "interactions" / "day=tomorrow").mkdir()
    for _ in _deployed(data, tmp_path, monkeypatch):
        assert days.day_definitions() == ([], [])


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("2026-1-1", "data.day is '2026-1-1'; it must be a date"),
        ("2025-12-31", "has no day=2025-12-31; it has 5 days"),
        ("2026-01-05", "is not complete: its folder has no file _SUCCESS"),
    ],
)
@pytest.mark.usefixtures("deployed")
def test_make_run_names_an_impossible_day_before_the_run_begins(
    day: str, message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_day(data, "2026-01-05", marked=False)
    assert run.main(["--day", day]) == 2
    out = capsys.readouterr().out
    assert out.startswith("error")
    assert out.count(message) == 1


def test_a_run_of_make_is_tagged_with_its_day(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "interactions" / f"day={FOURTH}" / "_SUCCESS").unlink()
    for _ in _deployed(data, tmp_path, monkeypatch):
        assert days.day_tag(DataConfig()) == {DAY_TAG: THIRD}
        assert days.day_tag(DataConfig(day=SECOND)) == {DAY_TAG: SECOND}
        write_day(data, FOURTH)
        assert days.day_tag(DataConfig()) == {DAY_TAG: FOURTH}


@pytest.mark.usefixtures("preset_without_widening")
@pytest.mark.parametrize("nightly", ["changes", "cron"])
def test_the_observation_tells_of_a_late_day_if_no_schedule_does(
    nightly: str, data: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = data.parent / "storage"
    for module in (days, sources):
        environment = Environment(data, storage, preset=None, nightly=nightly)
        monkeypatch.setattr(module, "current_deployment", lambda found=environment: found)
    profile = Population().night(1, find_data(data))
    accepted = dataclasses.replace(profile, folder=str(data), day=FOURTH)
    Night(accepted).write(storage, "accepted")
    write_day(data, "2026-01-05", marked=False)
    _build(data, instance)  # its data are blocked, as they differ from those of the drawn night
    days_told = [each.day for each in read_events(storage) if each.kind == "night_skipped"]
    assert days_told == (["2026-01-05"] if nightly == "changes" else [])

"""`mmctr models` lists versions, promotes one and rolls back; the submission follows."""

import dataclasses
import json
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.monitoring.night import Night
from mmctr_pipeline.publishing.fetch import fetch
from mmctr_pipeline.publishing.store import ObjectStore
from mmctr_pipeline.registry.champion import Champion
from mmctr_pipeline.registry.versions import latest_version
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.defs.running import Deployment, execute


@pytest.fixture(name="deployment")
def deployment_of_the_commands(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Deployment:
    deployment = finished_run.copy(tmp_path)
    for name in ("MMCTR_DATA_DIR", "MMCTR_STORAGE_DIR", "MMCTR_PRESET", "MMCTR_DEVICE"):
        monkeypatch.setenv(name, deployment.environment()[name])
    return deployment


def test_a_promotion_and_a_roll_back_change_champion_and_submission(
    deployment: Deployment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage, url = deployment.storage, f"file://{tmp_path / 'backup'}"
    monkeypatch.setenv("MMCTR_PUBLISH_URL", url)
    first, before = latest_version(storage), (storage / "submission.csv").read_bytes()
    training = {"max_epochs": 1, "seed": 9}
    assert execute(deployment, "trained_model", trained_model={"training": training}).success
    second = latest_version(storage)

    assert main(["models", "promote", second, "--reason", "to try it"]) == 0
    assert f"{second} is the champion" in capsys.readouterr().out
    assert (storage / "submission.csv").read_bytes() != before
    champion = Champion.read(storage)
    assert champion is not None
    assert (champion.version, champion.reason) == (second, "to try it")

    assert main(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["version"], row["role"]) for row in listed] == [
        (second, "champion"),
        (first, "best, former"),
    ]

    assert main(["models", "rollback"]) == 0
    out = capsys.readouterr().out
    assert "has its scores of" in out
    assert f"published at {url}: champion, submission_csv" in out
    fetch(tmp_path / "fresh", ObjectStore(url))
    assert (tmp_path / "fresh" / "submission.csv").read_bytes() == before
    assert (tmp_path / "fresh" / "best_model.pt").resolve().parent.name == first
    assert (storage / "submission.csv").read_bytes() == before
    assert (storage / "best_model.pt").resolve().parent.name == first


def test_blocked_data_are_not_scored_and_the_champion_stays(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = deployment.storage
    version, submission = latest_version(storage), (storage / "submission.csv").read_bytes()
    champion = Champion.read(storage)
    latest = Night.read(storage, "latest")
    assert latest is not None
    dataclasses.replace(latest, blocked="train.label_rate: 0.1").write(storage, "latest")
    assert main(["models", "promote", version]) == 2
    assert "the data are blocked: train.label_rate: 0.1. Fix: " in capsys.readouterr().err
    assert Champion.read(storage) == champion
    assert (storage / "submission.csv").read_bytes() == submission
    assert main(["models", "promote", version, "--keep-submission"]) == 0


def test_an_unknown_version_and_a_missing_predecessor_are_refused(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    version = latest_version(deployment.storage)
    assert main(["models", "promote", "nosuch"]) == 2
    assert f"has no version nosuch; it has: {version}" in capsys.readouterr().err
    assert main(["models", "rollback"]) == 2
    assert "there is no former champion to roll back to" in capsys.readouterr().err
    assert main(["models", "promote", version, "--keep-submission"]) == 0
    assert "submission.csv is unchanged" in capsys.readouterr().out

"""Only the champion is submitted, whatever is materialised in whatever order."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.monitoring.notify import read_events
from mmctr_pipeline.registry.champion import Champion
from mmctr_pipeline.registry.versions import latest_version
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment, execute, only_error

UNREACHABLE = {"checks": {"auc_floor": 0.9999, "beat_baselines": False}}
ANY = {"checks": {"auc_floor": 0.0, "beat_baselines": False}}


@pytest.fixture(name="deployment")
def deployment_after_a_run(finished_run: FinishedRun, tmp_path: Path) -> Deployment:
    return finished_run.copy(tmp_path)


def submission(deployment: Deployment) -> bytes:
    return (deployment.storage / "submission.csv").read_bytes()


def champion_version(deployment: Deployment) -> str:
    champion = Champion.read(deployment.storage)
    assert champion is not None
    return champion.version


def test_a_challenger_trained_on_shuffled_labels_is_never_submitted(
    deployment: Deployment,
) -> None:
    folder = deployment.storage / "train_dataset"
    dataset = CtrDataset.read(folder)
    assert dataset.train.label is not None
    shuffled = np.random.default_rng(1).permutation(dataset.train.label)
    train = dataclasses.replace(dataset.train, label=shuffled)
    dataclasses.replace(dataset, train=train).write(folder.resolve())
    before, champion = submission(deployment), champion_version(deployment)

    training = {"max_epochs": 1}
    together = execute(
        deployment,
        *("trained_model", "champion", "submission_csv"),
        trained_model={"training": training},
    )
    assert together.success
    challenger = latest_version(deployment.storage)
    verdicts = {check.check_name: check.passed for check in together.get_asset_check_evaluations()}
    assert verdicts == {
        "auc_floor": False,
        "challenger_promoted": False,
        "submission_valid": True,
        "score_drift": True,
    }
    (event,) = read_events(deployment.storage)
    assert (event.kind, event.run_id) == ("challenger_rejected", together.run_id)
    assert event.headline.startswith("auc_floor: ")
    assert event.detail.startswith(f"{challenger}: ")
    for assets in (["submission_csv"], ["champion"], ["champion", "submission_csv"]):
        assert execute(deployment, *assets).success
        assert submission(deployment) == before
        assert champion_version(deployment) == champion != challenger
    link = deployment.storage / "best_model.pt"
    assert link.resolve().parent.name == champion


def test_without_a_champion_a_rejected_model_is_not_submitted(deployment: Deployment) -> None:
    (deployment.storage / "champion.json").unlink()
    (deployment.storage / "best_model.pt").unlink()
    marked = submission(deployment) + b"\n"
    (deployment.storage / "submission.csv").write_bytes(marked)
    rejected = execute(deployment, "champion", "submission_csv", champion=UNREACHABLE)
    assert not rejected.success
    assert "is below the floor 0.9999" in only_error(rejected)
    (event,) = read_events(deployment.storage)
    assert event.kind == "challenger_rejected"
    assert re.fullmatch(r"auc_floor: 0\.\d{4} < 0\.9999", event.headline)
    assert "champion.json does not exist: materialise champion first" in only_error(
        execute(deployment, "submission_csv")
    )
    assert submission(deployment) == marked
    # With a lower floor the same model is promoted, without training again.
    assert execute(deployment, "champion", "submission_csv", champion=ANY).success
    assert champion_version(deployment) == latest_version(deployment.storage)
    assert submission(deployment) + b"\n" == marked


def test_materialising_the_champion_with_a_version_rolls_back(deployment: Deployment) -> None:
    first, before = champion_version(deployment), submission(deployment)
    training = {"max_epochs": 1, "seed": 9}
    assert execute(deployment, "trained_model", trained_model={"training": training}).success
    second = latest_version(deployment.storage)
    assets = ("champion", "submission_csv")
    for version in (second, first):
        by_hand = {"promotion": {"version": version}}
        assert execute(deployment, *assets, champion=by_hand).success
        assert champion_version(deployment) == version
        assert (submission(deployment) == before) == (version == first)
    unknown = execute(deployment, *assets, champion={"promotion": {"version": "20260101"}})
    assert f"has no version 20260101; it has: {second}, {first}" in only_error(unknown)
    assert champion_version(deployment) == first


@pytest.mark.slow
def test_a_challenger_on_other_vectors_is_compared_with_the_champion_on_its_own(
    deployment: Deployment,
) -> None:
    before, champion = submission(deployment), champion_version(deployment)
    config = {"fusion": {"rotate": False}}
    assert execute(deployment, "fused_pca", fused_pca=config).success
    untrained = {"max_epochs": 1, "learning_rate": 1e-6}
    result = execute(
        deployment,
        *("trained_model", "champion", "submission_csv"),
        trained_model={"training": untrained},
        champion=ANY,
    )
    assert result.success
    (event,) = result.asset_materializations_for_node("champion")
    assert "against" in str(event.metadata["verdict"].value)
    assert champion_version(deployment) == champion
    assert submission(deployment) == before

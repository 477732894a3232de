"""With MMCTR_NIGHTLY=changes, changed sources start one run of what depends on them."""

import datetime
from pathlib import Path

import dagster as dg
import pytest

from mmctr_pipeline.definitions import defs
from mmctr_pipeline.defs import automation
from mmctr_pipeline.defs.jobs import SOURCE_NAMES
from mmctr_pipeline.defs.run_guard import claimed
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline_tests.defs.run_states import run_in_state

EVERYTHING = {
    *("text_embeddings", "image_embeddings", "fused_pca", "train_dataset", "trained_model"),
    *("champion", "model_report", "submission_csv", "item_feature:preflight"),
    *(f"{name}:data_gate" for name in SOURCE_NAMES),
}


class Nights:
    """The automation's evaluations of a Dagster instance."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._cursor: dg.AssetDaemonCursor | None = None

    def requested(self, day: int, hour: int, minute: int) -> set[str]:
        """Evaluate all conditions at a time of January 2026; return what is to run."""
        time = datetime.datetime(2026, 1, day, hour, minute, 10, tzinfo=datetime.UTC)
        result = dg.evaluate_automation_conditions(
            defs, self.instance, cursor=self._cursor, evaluation_time=time
        )
        self._cursor = result.cursor
        return {each.key.to_user_string() for each in result.results if each.true_subset.size}

    def observe(self, **versions: str) -> None:
        for name, version in versions.items():
            observation = dg.AssetObservation(name, tags={"dagster/data_version": version})
            self.instance.report_runless_asset_event(observation)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    deployment = Deployment(None, tmp_path, preset=None)
    monkeypatch.setattr(automation, "current_deployment", lambda: deployment)
    return tmp_path


def test_sources_are_observed_at_the_hour_and_changes_start_what_depends_on_them(
    storage: Path,
) -> None:
    first = dict.fromkeys(SOURCE_NAMES, "1")
    with dg.DagsterInstance.ephemeral() as instance:
        nights = Nights(instance)
        assert nights.requested(1, 1, 0) == nights.requested(1, 1, 59) == set()
        assert nights.requested(1, 2, 0) == set(SOURCE_NAMES)
        assert nights.requested(1, 2, 1) == set()
        nights.observe(**first)
        assert nights.requested(1, 2, 2) == EVERYTHING
        assert nights.requested(1, 2, 3) == set(), "requested twice"

        assert nights.requested(2, 2, 0) == set(SOURCE_NAMES)
        nights.observe(**first)
        assert nights.requested(2, 2, 1) == set(), "requested although nothing changed"

        assert nights.requested(3, 2, 0) == set(SOURCE_NAMES)
        nights.observe(**{**first, "item_images": "2"})
        unaffected = {"text_embeddings", "train_dataset"}
        assert nights.requested(3, 2, 1) == EVERYTHING - unaffected


def test_a_change_waits_for_active_runs_of_this_home_and_of_others(storage: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        nights = Nights(instance)
        nights.observe(**dict.fromkeys(SOURCE_NAMES, "1"))
        assert nights.requested(1, 1, 0) == set()
        nights.observe(interactions="2")
        observing = run_in_state(instance, dg.DagsterRunStatus.STARTED, job="observe_sources")
        assert nights.requested(1, 1, 1) == set()
        # A source that is observed later in the same run takes part in the same night.
        nights.observe(item_images="2")
        instance.report_run_canceled(observing)
        with claimed(storage, "7", "run 7 (make run)"):
            assert nights.requested(1, 1, 2) == set()
        assert nights.requested(1, 1, 3) == EVERYTHING - {"text_embeddings"}

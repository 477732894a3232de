"""The printed summary says which checks did not pass, which model was submitted, and why."""

from mmctr_pipeline.defs.summary import table
from mmctr_pipeline_tests.defs.conftest import FinishedRun


def test_a_rejected_model_is_named_with_the_reason_and_the_command_that_submits_it(
    finished_run: FinishedRun,
) -> None:
    summary = finished_run.summary
    assert "champion             this model\n" in table(summary)
    rejected = {
        **summary,
        "promoted": False,
        "promotion": "rejected: AUC 0.7 against 0.8 of the champion",
        "model_path": "/storage/models/20260102T030405Z-01234567/model.pt",
        "champion_path": "/storage/models/20260101T030405Z-89abcdef/model.pt",
    }
    below_times = table(rejected).split("\n\n")[-1]
    (line,) = [line for line in below_times.splitlines() if line.startswith("champion ")]
    assert line.endswith(
        "/storage/models/20260101T030405Z-89abcdef/model.pt, since this model was rejected: "
        "AUC 0.7 against 0.8 of the champion. To submit this model anyway: "
        "mmctr models promote 20260102T030405Z-01234567"
    )


def test_a_warning_is_no_failure(finished_run: FinishedRun) -> None:
    summary = finished_run.summary
    n_checks = summary["checks_passed"]
    assert f"\nchecks               {n_checks} passed, 0 failed\n" in table(summary)
    warned = {**summary, "checks_passed": 22, "checks_warned": ["fused_pca: explained_variance"]}
    line = "checks               22 passed, 1 warned (fused_pca: explained_variance), 0 failed"
    assert line in table(warned).splitlines()
    failed = {**summary, "checks_passed": 22, "checks_failed": ["trained_model: auc_floor"]}
    line = "checks               22 passed, 1 failed (trained_model: auc_floor)"
    assert line in table(failed).splitlines()

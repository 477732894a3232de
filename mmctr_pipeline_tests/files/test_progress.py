"""Progress lines are logged for long work only, with count, rate and remaining time."""

import logging

import pytest

from mmctr_pipeline.files.progress import Progress

logger = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def _log_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_short_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(logger, "reading", 100, every_seconds=3600)
    for _ in range(100):
        progress.advance()
    assert caplog.messages == []


def test_long_work_logs_count_rate_and_remaining_time(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(logger, "reading", 10_000, "files", every_seconds=0)
    progress.advance(2500)
    progress.advance(2500)
    assert caplog.messages[-1].startswith("reading: 5,000 of 10,000 files, ")
    assert "files/s" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("s left")
    assert progress.seconds > 0
    assert progress.per_second > 0


def test_completion_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    Progress(logger, "reading", 10, every_seconds=0).advance(10)
    assert caplog.messages == []


def test_the_rate_leaves_out_what_was_done_before(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(logger, "epoch 1", 1_000, every_seconds=0, done=500)
    progress.advance(250)
    assert caplog.messages[0].startswith("epoch 1: 750 of 1,000 rows, ")
    assert progress.count == 250
    assert progress.per_second == pytest.approx(250 / progress.seconds, rel=0.5)

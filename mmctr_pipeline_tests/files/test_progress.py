"""Progress lines: when they come and what they say."""

from mmctr_pipeline.files.progress import Progress


def test_short_work_is_silent() -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "reading", 100, every_seconds=3600)
    for _ in range(100):
        progress.advance()
    assert lines == []


def test_long_work_tells_count_rate_and_rest() -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "reading", 10_000, "files", every_seconds=0)
    progress.advance(2500)
    progress.advance(2500)
    assert lines[-1].startswith("reading: 5,000 of 10,000 files, ")
    assert "files/s" in lines[-1]
    assert lines[-1].endswith("s left")
    assert progress.seconds > 0
    assert progress.per_second > 0


def test_the_end_is_left_to_the_caller() -> None:
    lines: list[str] = []
    Progress(lines.append, "reading", 10, every_seconds=0).advance(10)
    assert lines == []

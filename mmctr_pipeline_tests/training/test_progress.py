"""Progress lines: what they say and how often."""

from mmctr_pipeline.training.progress import Progress


def test_lines_tell_rows_speed_and_remaining_time() -> None:
    lines: list[str] = []
    progress = Progress("epoch 1 of 2", 3000, lines.append, interval=0.0)
    progress.advance(1000)
    progress.advance(500)
    assert len(lines) == 2
    assert lines[1].startswith("epoch 1 of 2: 1,500 of 3,000 rows, ")
    assert "rows/s" in lines[1]
    assert lines[1].endswith("s left")


def test_lines_come_no_more_often_than_the_interval() -> None:
    lines: list[str] = []
    progress = Progress("epoch 1 of 2", 1000, lines.append, interval=3600.0)
    for _ in range(100):
        progress.advance(10)
    assert lines == []
    assert progress.rows_per_second > 0

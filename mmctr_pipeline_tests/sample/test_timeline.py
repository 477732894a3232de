"""A sample dataset by day grows as its settings say, and its trends move but balance out."""

import numpy as np
import pytest

from mmctr_pipeline.sample.config import WINDOW_DAYS, SampleConfig
from mmctr_pipeline.sample.timeline import TREND_DAYS, Timeline
from mmctr_pipeline.settings import SettingsError

CONFIG = SampleConfig(days=40, n_items=1_000, n_users=5_000, n_train_rows=28_000)


def test_a_day_adds_one_percent_items_and_three_percent_of_the_rows_of_the_first_window() -> None:
    timeline = Timeline(CONFIG)
    assert [timeline.n_items(day) for day in (-1, 0, 26, 27, 28, 34)] == [
        *(0, 730, 990, 1_000, 1_010, 1_070)
    ]
    assert timeline.n_users(27) == 5_000
    assert sum(timeline.n_rows(day) for day in range(WINDOW_DAYS)) == 28_000
    assert timeline.n_rows(28) == timeline.n_rows(100) == 840


def test_dates_follow_each_other_across_the_end_of_a_month() -> None:
    timeline = Timeline(CONFIG)
    assert [timeline.date(day) for day in (0, 27, 34)] == ["2026-10-01", "2026-10-28", "2026-11-04"]


def test_trends_have_the_size_of_the_drift_and_add_up_to_zero_on_each_day() -> None:
    timeline = Timeline(SampleConfig(days=1, drift=0.7))
    for day in (0, 1, 30, 99):
        assert timeline.trend(day).mean() == pytest.approx(0, abs=1e-12)
        assert timeline.trend(day).std() == pytest.approx(0.7)
    assert timeline.trend(5) == pytest.approx(timeline.trend(5 + TREND_DAYS))


def test_trends_drift_apart_with_time() -> None:
    timeline = Timeline(CONFIG)
    similarity = [
        np.corrcoef(timeline.trend(0), timeline.trend(day))[0, 1] for day in (1, 7, 14, 28, 56)
    ]
    assert np.all(np.diff([1.0, *similarity]) < 0)
    assert similarity[-1] == pytest.approx(-1)


def test_without_drift_there_are_no_trends() -> None:
    assert not Timeline(SampleConfig(days=1, drift=0)).trend(9).any()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [({"first_day": "1 October"}, "first_day"), ({"days": -1}, "days"), ({"drift": -1}, "drift")],
)
def test_impossible_settings_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"SampleConfig\.{problem} "):
        SampleConfig(**settings)

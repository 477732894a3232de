"""How a sample dataset by day grows and drifts: the items, users, rows and trends of each day.

Everything about a day follows from the settings and its number, never from how many days follow.
Days are numbered from 0; the days before `WINDOW_DAYS` are the first window.
"""

import dataclasses
import datetime

import numpy as np

from mmctr_pipeline.sample.catalogue import CATEGORIES, STYLES, Stream, generator
from mmctr_pipeline.sample.config import WINDOW_DAYS, SampleConfig

TREND_DAYS = 112
"""Days after which the trends repeat. A model of the last 28 days knows those of half of them ago,
an eighth of this cycle; after seven more nights it is a sixteenth further behind."""


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Dates, sizes and trends by the number of the day."""

    config: SampleConfig

    def date(self, day: int) -> str:
        """Return the date, YYYY-MM-DD."""
        first = datetime.date.fromisoformat(self.config.first_day)
        return str(first + datetime.timedelta(days=day))

    def n_items(self, day: int) -> int:
        """Return the number of items that the catalogue has on a day; none on day -1."""
        return self._grown(self.config.n_items, day)

    def n_users(self, day: int) -> int:
        """Return the number of users who may come on a day; none on day -1."""
        return self._grown(self.config.n_users, day)

    def n_rows(self, day: int) -> int:
        """Return the number of interactions of a day."""
        total = self.config.n_train_rows
        if day < WINDOW_DAYS:
            return (day + 1) * total // WINDOW_DAYS - day * total // WINDOW_DAYS
        return max(round(self.config.daily_row_share * total), 2)

    def n_candidates(self) -> int:
        """Return the number of rows to score of each day."""
        return max(round(self.config.daily_row_share * self.config.n_test_rows), 1)

    def trend(self, day: int) -> np.ndarray:
        """Return what is added to the logit for each cell of category and style, `(N_CELLS,)`.

        Each category and style follows a cosine. Their phases are evenly spaced, so the trends add
        up to zero on each day, and clicks stay as frequent.
        """
        rng = generator(self.config.seed, Stream.TRENDS)
        waves = [
            np.cos(2 * np.pi * (day / TREND_DAYS + rng.permutation(len(kinds)) / len(kinds)))
            for kinds in (CATEGORIES, STYLES)
        ]
        return self.config.drift * np.add.outer(*waves).reshape(-1)

    def _grown(self, at_end_of_window: int, day: int) -> int:
        if day < 0:
            return 0
        per_day = round(self.config.daily_growth * at_end_of_window)
        return at_end_of_window + (day - WINDOW_DAYS + 1) * per_day

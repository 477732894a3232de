"""Nights drawn at random from one population, or from one that has shifted in a single respect."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmctr_pipeline.data.dataset import CtrDataset, ItemTable, Split
from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.data.ragged import Ragged
from mmctr_pipeline.monitoring.profile import DataProfile, profile_data
from mmctr_pipeline_tests.data.small_data import write_data

N_ITEMS = 400


@dataclasses.dataclass(frozen=True)
class Population:
    """What nights are drawn from. Users differ in click rate, history and number of rows.

    A share `new_items` of the items, and `new_users` of the users, of valid and test are in no
    train row. With `levels_up`, that share of the items has both levels doubled.
    """

    n_users: int = 600
    n_items: int = N_ITEMS
    clicks: float = 0.4
    mean_history: float = 8.0
    new_items: float = 0.05
    new_users: float = 0.3
    levels_up: float = 0.0
    share_of_test_rows: float = 1.0

    def night(self, seed: int, layout: DataLayout) -> DataProfile:
        """Draw a night; another seed draws other users and rows, but the same items."""
        return profile_data(self.dataset(seed), layout)

    def dataset(self, seed: int) -> CtrDataset:
        """Draw the dataset of a night."""
        generator = np.random.default_rng(seed)
        levels = np.random.default_rng(0).integers(0, 6, self.n_items + 1).astype(np.int8)
        is_up = np.random.default_rng(1).random(self.n_items + 1) < self.levels_up
        levels = np.where(is_up, 2 * levels, levels).astype(np.int8)
        lengths = np.arange(64)
        histories = Ragged.from_lists([np.ones(length, np.int32) for length in lengths])
        is_new = np.random.default_rng(2).random(self.n_items + 1) < self.new_items

        def split(name: str, n_users: int) -> Split:
            first = 0 if name == "train" else self.n_users
            users = first + np.arange(1, n_users + 1)
            returns = generator.random(n_users) >= self.new_users
            if name != "train":
                users = np.where(returns, generator.integers(1, self.n_users + 1, n_users), users)
            user = np.repeat(np.arange(n_users), generator.poisson(6, n_users) + 1)
            popularity = np.arange(1, self.n_items + 1) ** -0.7
            popularity *= ~is_new[1:] if name == "train" else 1.0
            item = 1 + generator.choice(
                self.n_items, len(user), p=popularity / popularity.sum()
            ).astype(np.int32)
            length = np.minimum(generator.geometric(1 / self.mean_history, n_users), 63)
            rate = generator.beta(4 * self.clicks, 4 * (1 - self.clicks), n_users)
            return Split(
                user_id=users[user].astype(np.int32),
                item_id=item,
                history=length[user].astype(np.int32),
                likes_level=levels[item],
                views_level=levels[item],
                label=None if name == "test" else (generator.random(len(user)) < rate[user]) * 1,
                row_id=np.arange(len(user)) if name == "test" else None,
            )

        n_test = round(self.n_users * self.share_of_test_rows)
        item_id = np.arange(1, self.n_items + 1)
        items = ItemTable(
            ids=item_id,
            item_id=item_id.astype(np.int32),
            title=pa.array([""] * self.n_items),
            tags=Ragged.from_lists([[]] * self.n_items),
            likes_level=levels[1:],
            views_level=levels[1:],
        )
        return CtrDataset(
            train=split("train", self.n_users),
            valid=split("valid", self.n_users),
            test=split("test", n_test),
            items=items,
            histories=histories,
            fingerprint=f"night {seed}",
            provenance={"schema": {"train": {"label": "int8"}}},
        )


def write_files(root: Path) -> DataLayout:
    """Write item_feature, and covers for every second item; each drawn night has these."""
    write_data(root)
    (root / "item_images").mkdir()
    for item in range(1, N_ITEMS + 1, 2):
        (root / "item_images" / f"{item}.jpg").touch()
    return find_data(root)

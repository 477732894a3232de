"""Recognise public data sets by their numbers of rows and items."""

from mmctr_pipeline.data.dataset import CtrDataset

MICROLENS_1M_X1 = "MicroLens_1M_x1"

_COUNTS = {
    MICROLENS_1M_X1: {"train": 3_600_000, "valid": 10_000, "test": 379_142, "items": 91_717},
}


def data_set_name(dataset: CtrDataset) -> str:
    """Return the name of the public data set with these counts of rows and items, or "".

    A sample dataset of full size has the counts of MicroLens_1M_x1.
    """
    found = {name: len(split) for name, split in dataset.splits.items()}
    found["items"] = len(dataset.items)
    return next((name for name, counts in _COUNTS.items() if counts == found), "")

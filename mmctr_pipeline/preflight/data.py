"""Check the data of a run from file footers and the label columns alone."""

import dataclasses
import functools
from collections.abc import Iterator

import pyarrow.compute as pc

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline.data.schemas import ITEM_COLUMNS, LABELLED_COLUMNS, MAX_TAG
from mmctr_pipeline.data.tables import Table, open_table
from mmctr_pipeline.data.validation import DataError
from mmctr_pipeline.data.window import SplitTables, find_splits
from mmctr_pipeline.preflight.findings import Finding, found

_LABEL = next(column for column in LABELLED_COLUMNS if column.name == "label")
_USER_ID, _ITEM_ID = LABELLED_COLUMNS[0], ITEM_COLUMNS[0]
_READ_ROWS = 1 << 20


@dataclasses.dataclass
class DataChecks:
    """Checks of the data; `splits` are the tables of the run, None before `tables` has run."""

    layout: DataLayout
    config: DataConfig
    splits: SplitTables | None = None

    def tables(self) -> Iterator[Finding]:
        """Yield whether the tables of the run, and all days of its window, are complete."""
        by_day = self.layout.interactions is not None

        def examine() -> str:
            self.splits = find_splits(self.layout, self.config)
            if (window := self.splits.window) is None:
                return "train, valid, test, item_feature"
            return f"{window}; {window.gaps}" if window.gaps else str(window)

        where = "data.day" if by_day else str(self.layout.root)
        yield found("days" if by_day else "tables", where, examine)

    def labels(self) -> Iterator[Finding]:
        """Yield whether train and valid have labels of both classes."""
        for name in ("train", "valid") if self.splits else ():
            assert self.splits is not None
            split = self.splits.by_name[name]
            yield found(f"{name} labels", str(split.path), functools.partial(_labels, split))


@dataclasses.dataclass(frozen=True)
class TableSizes:
    """Numbers that the size of a model depends on; the users are at most so many."""

    n_items: int
    n_users: int
    n_tags: int
    n_train_rows: int


def table_sizes(layout: DataLayout | None, splits: SplitTables | None) -> TableSizes:
    """Return the sizes by the footers of the files; all are 1 for data that were not found."""
    n_items = n_tags = n_users = n_train_rows = 1
    if layout is not None:
        with open_table(layout.item_feature, [_ITEM_ID]) as file:
            n_items = file.n_rows
            n_tags = min(1 + (file.extremes("item_tags.list.element") or (0, 0))[1], MAX_TAG)
    if splits is not None:
        with open_table(splits.train, [_USER_ID]) as file:
            n_train_rows = file.n_rows
            n_users = min(n_train_rows, (file.extremes("user_id") or (0, n_train_rows))[1])
    return TableSizes(n_items, n_users, n_tags, n_train_rows)


def _labels(table: Table) -> str:
    """Return what labels a table has; raises `DataError` if they are of one class."""
    seen: set[int] = set()
    with open_table(table, [_LABEL]) as file:
        statistics = file.extremes(_LABEL.name)
        if statistics is not None:
            seen.update(statistics)
        else:
            for batch in file.iter_batches(_READ_ROWS, [_LABEL.name]):
                seen.update(pc.unique(batch.column(_LABEL.name)).drop_null().to_pylist())
                if len(seen) > 1:
                    break
        count = f"{file.n_rows:,} rows"
    if len(seen) < 2:
        raise DataError(
            table.path,
            f"all labels of {table.label} are {', '.join(map(str, seen)) or 'missing'} ({count}); "
            "training and its AUC need clicks (1) and rows without one (0)",
            "check how the file was made",
            _LABEL.name,
        )
    return f"both classes in {count}"

"""Write a sample dataset to disk, in the layout of the MMCTR data set."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mmctr_pipeline.files.errors import naming_write_errors
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.sample import tables
from mmctr_pipeline.sample.catalogue import draw_catalogue
from mmctr_pipeline.sample.config import SAMPLE_VERSION, SampleConfig, SamplePaths
from mmctr_pipeline.sample.days import generate_days, read_truth
from mmctr_pipeline.sample.splits import write_splits
from mmctr_pipeline.sample.titles import draw_titles

logger = logging.getLogger(__name__)


def generate_sample(config: SampleConfig, folder: Path) -> dict[str, Any]:
    """Write the files of `SamplePaths` into `folder` (created if absent); return the summary.

    The folder of images is written only if the settings ask for images. Equal settings give equal
    bytes. A dataset by day is written as by `generate_days`.
    """
    if config.days is not None:
        return generate_days(config, folder)
    logger.info(
        f"sample dataset: {config.n_items:,} items, {config.n_users:,} users, "
        f"{config.n_train_rows:,} train rows, seed {config.seed}"
    )
    paths = SamplePaths(folder)
    paths.interactions.mkdir(parents=True, exist_ok=True)
    catalogue = draw_catalogue(config)
    titles = draw_titles(catalogue, config)
    tables.write_item_feature(paths.item_feature, catalogue, titles, config)
    tables.write_item_info(paths.item_info, catalogue, config)
    tables.write_item_truth(paths.item_truth, catalogue)
    summary: dict[str, Any] = {
        "version": SAMPLE_VERSION,
        "config": config.to_mapping(),
        "n_items": len(catalogue),
        "n_cold_items": int(catalogue.cold.sum()),
        "n_empty_titles": sum(not title for title in titles),
        **write_splits(paths, catalogue, config),
    }
    if config.images:
        # Imported here, because a dataset without images does not need Pillow.
        from mmctr_pipeline.sample.covers import write_covers

        summary.update(write_covers(paths.images, catalogue, config))
    paths.summary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    logger.info(
        f"sample dataset: best possible AUC {summary['best_possible_auc']:.4f}, "
        f"popularity alone {summary['popularity_auc']:.4f}"
    )
    return summary


def ensure_sample(config: SampleConfig, root: Path) -> Path:
    """Return the folder `root/<config.key>` of the sample dataset; generate it if it is absent.

    If several processes ask for it, one generates it and the others wait. The folder is never
    visible half-written. Raises `WriteError` if it cannot be written.
    """
    folder = root / config.key
    if SamplePaths(folder).summary.is_file():
        return folder
    with locked(root / f".{config.key}.lock"):
        if SamplePaths(folder).summary.is_file():
            return folder
        temporary = root / f".{config.key}.making"
        # This process holds the lock, so these folders are leftovers of killed processes.
        for leftover in (temporary, folder):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with naming_write_errors(temporary):
                generate_sample(config, temporary)
                os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_valid_truth(
    folder: Path, valid_days: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return labels and true probabilities of the valid rows, each `(N,)`, in the order of rows.

    `valid_days` are the valid days, YYYY-MM-DD, of a dataset by day. Returns None for a folder
    without such a sample dataset.
    """
    paths = SamplePaths(folder)
    if valid_days and paths.truth_of(valid_days[0]).is_file():
        truth = read_truth(folder, valid_days)
    elif not valid_days and paths.truth.is_file():
        truth = pq.read_table(paths.truth, filters=[("split", "=", "valid")]).sort_by("row")
    else:
        return None
    return truth.column("label").to_numpy(), truth.column("probability").to_numpy()


def read_best_possible_auc(folder: Path, valid_days: Sequence[str] = ()) -> float | None:
    """Return the best possible valid AUC of a sample dataset; None as by `read_valid_truth`."""
    truth = read_valid_truth(folder, valid_days)
    return None if truth is None else auc(*truth)

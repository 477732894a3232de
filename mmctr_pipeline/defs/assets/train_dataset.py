"""`train_dataset`: the train, valid and test rows, ragged histories and the item table."""

import dataclasses
from collections.abc import Iterator

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.defs.config import asset_config, resolved
from mmctr_pipeline.defs.metadata import OWNERS, check_results, check_specs, columns
from mmctr_pipeline.defs.resources import PlacesResource

TrainDatasetConfig = asset_config("train_dataset")


@dg.asset(
    deps=["interactions", "item_feature"],
    description="Validated interactions: each history stored once, without padding, and the items.",
    group_name="training",
    kinds={"parquet"},
    owners=OWNERS,
    code_version="1",
    io_manager_key="dataset_io",
    metadata=columns(
        user_id=("int32", "from 1"),
        item_id=("int32", "the target item"),
        history=("int32", "row of histories.parquet"),
        likes_level=("int8", "0 to 10"),
        views_level=("int8", "0 to 10"),
        label=("int8", "1 for a click; absent in test"),
        row_id=("int64", "the ID of a test row; absent in train and valid"),
    ),
)
def train_dataset(
    context: dg.AssetExecutionContext,
    config: TrainDatasetConfig,  # type: ignore[valid-type]
    places: PlacesResource,
) -> CtrDataset:
    """Read, validate and compact the interactions."""
    from mmctr_pipeline.data.interactions import build_dataset

    layout = places.layout(context.log.info)
    context.log.info(layout.description)
    dataset = build_dataset(layout, context.log.info)
    dataset = dataclasses.replace(
        dataset, provenance={**dataset.provenance, "config": resolved(config)}
    )
    lengths = dataset.histories.lengths
    context.add_output_metadata(
        {
            "dagster/row_count": len(dataset.train),
            "valid rows": len(dataset.valid),
            "test rows": len(dataset.test),
            "items": len(dataset.items),
            "distinct histories": len(dataset.histories),
            "mean history length": float(lengths.mean()) if len(lengths) else 0.0,
            "fingerprint": dataset.fingerprint,
            "configuration": dg.MetadataValue.json(resolved(config)),
            "provenance": dg.MetadataValue.json(dataset.provenance),
        }
    )
    return dataset


@dg.multi_asset_check(
    name="train_dataset_checks",
    specs=check_specs(
        "train_dataset",
        blocking={
            "id_ranges": "users from 1, items of the item table, levels 0 to 10, no empty split",
            "label_values": "labels are 0 and 1, both occur, test IDs are distinct",
            "target_in_history": "target items seldom stand in their own row's history",
        },
        reporting={"user_overlap": "valid users are all, or none of them, train users"},
    ),
)
def train_dataset_checks(
    context: dg.AssetCheckExecutionContext, train_dataset: CtrDataset
) -> Iterator[dg.AssetCheckResult]:
    """Check the integrity of the dataset."""
    from mmctr_pipeline.reporting.checks import (
        id_ranges,
        label_values,
        target_in_history,
        user_overlap,
    )

    limits = train_dataset.provenance["config"]["checks"]
    yield from check_results(
        "train_dataset",
        [
            id_ranges(train_dataset),
            label_values(train_dataset),
            target_in_history(train_dataset, limits["max_target_in_history"]),
            user_overlap(train_dataset),
        ],
    )

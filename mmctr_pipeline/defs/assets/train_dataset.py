"""`train_dataset`: the train, valid and test rows, ragged histories and the item table."""

import dataclasses
from typing import Any

import dagster as dg

from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.defs import declare
from mmctr_pipeline.defs.config import AssetConfig
from mmctr_pipeline.defs.days import data_of_run
from mmctr_pipeline.defs.resources import DeploymentResource
from mmctr_pipeline.reporting import checks


@declare.asset(
    decided_by="mmctr_pipeline.data.build",
    gpu=False,
    deps=["interactions", "item_feature"],
    kinds={"parquet"},
    io_manager_key="dataset_io",
    metadata=declare.columns(
        user_id=("int32", "the user's id, or row in users.parquet if that exists"),
        item_id=("int32", "row of the target item in items.parquet, which has its id"),
        history=("int32", "row of histories.parquet"),
        likes_level=("int8", "0 to 10"),
        views_level=("int8", "0 to 10"),
        label=("int8", "1 for a click; absent in test"),
        row_id=("int64", "the ID of a test row; absent in train and valid"),
    ),
)
def train_dataset(
    context: dg.AssetExecutionContext, config: AssetConfig, deployment: DeploymentResource
) -> dg.Output[CtrDataset]:
    """The validated interactions and items; each history is stored once, without padding."""
    from mmctr_pipeline import pipeline
    from mmctr_pipeline.data.facts import data_facts

    layout = deployment.layout()
    data = data_of_run(context, layout, config.settings("data", DataConfig))
    dataset = pipeline.load_dataset(layout, data)
    resolved = {**config.resolved, "data": data.to_mapping()}
    dataset = dataclasses.replace(dataset, provenance={**dataset.provenance, "config": resolved})
    lengths, facts = dataset.histories.lengths, data_facts(dataset)
    metadata: dict[str, Any] = {
        **_days(dataset.provenance),
        "dagster/row_count": len(dataset.train),
        "valid rows": len(dataset.valid),
        "test rows": len(dataset.test),
        "items": len(dataset.items),
        "distinct histories": len(dataset.histories),
        "mean history length": float(lengths.mean()) if len(lengths) else 0.0,
        "train label rate": facts.click_rate,
        "valid rows with an unknown item": facts.cold,
        "valid rows with an unknown user": 1 - facts.returning,
        "facts": dg.MetadataValue.md("\n".join(f"- {fact}" for fact in facts.sentences())),
        "fingerprint": dataset.fingerprint,
        "configuration": dg.MetadataValue.json(resolved),
        "provenance": dg.MetadataValue.json(dataset.provenance),
    }
    return dg.Output(dataset, metadata=metadata)


def _days(provenance: dict[str, Any]) -> dict[str, str]:
    """Return the day of the dataset and its first and last days, if the data are logs by day."""
    if "window" not in provenance:
        return {}
    window = provenance["window"]
    spans = {
        name.replace("_", " "): f"{window[name][0]} to {window[name][-1]} ({len(window[name])})"
        for name in ("train_days", "valid_days")
    }
    return {"day": window["day"], **spans, "missing days": ", ".join(window["missing_days"])}


@declare.checks(
    not_blocking=("user_overlap", "unseen_values"),
    id_ranges="users are from 1, items in item_feature, levels from 0 to 10, and no split is empty",
    label_values="labels are 0 and 1, both occur, test IDs are distinct",
    target_in_history="target items are rarely in their own row's history",
    user_overlap="either all valid users are train users, or none",
    unseen_values="train has most items and levels of the valid rows",
)
def train_dataset_checks(train_dataset: CtrDataset) -> list[checks.CheckOutcome]:
    """Check the integrity of the dataset."""
    limits = train_dataset.provenance["config"]["checks"]
    return [
        checks.id_ranges(train_dataset),
        checks.label_values(train_dataset),
        checks.target_in_history(train_dataset, limits["max_target_in_history"]),
        checks.user_overlap(train_dataset),
        checks.unseen_values(train_dataset),
    ]

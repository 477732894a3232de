"""Each asset check fails in Dagster on an artefact with the fault that it looks for.

The checks of the sources have their own tests, `test_source_checks.py`.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline.monitoring.night import Night
from mmctr_pipeline.monitoring.profile import profile_scores
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline.reporting.contest import read_contest
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import in_process
from mmctr_pipeline_tests.defs.test_definitions import CHECKS, SOURCES


def _run_checks(asset: str, data: Path, storage: Path) -> dict[str, dg.AssetCheckEvaluation]:
    """Run only an asset's checks on the artefacts in `storage`, in this process."""
    job = in_process(data, storage, dg.AssetSelection.checks_for_assets(asset))
    result = job.execute_in_process(raise_on_error=False)
    return {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }


def _rewrite(path: Path, change: Callable[[VectorTable], VectorTable]) -> None:
    pq.write_table(change(VectorTable.read(path)).to_arrow(), path)


def _without_an_item(table: VectorTable) -> VectorTable:
    keep = table.item_id != table.item_id[-1]
    return dataclasses.replace(
        table, item_id=table.item_id[keep], vectors=table.vectors[keep], present=table.present[keep]
    )


def _with_nan(table: VectorTable) -> VectorTable:
    vectors = table.vectors.copy()
    vectors[-1] = np.nan
    return dataclasses.replace(table, vectors=vectors)


def _with_many_outliers(table: VectorTable) -> VectorTable:
    vectors = table.vectors.copy()
    vectors[::50] *= np.float32(1e6)
    return dataclasses.replace(table, vectors=vectors)


def _mostly_masked(table: VectorTable) -> VectorTable:
    present = np.zeros_like(table.present)
    present[:3] = table.present[:3]
    vectors = np.where(present[:, None], table.vectors, np.float32(0))
    return dataclasses.replace(table, vectors=vectors, present=present)


def _with_little_explained_variance(table: VectorTable) -> VectorTable:
    return dataclasses.replace(table, provenance={**table.provenance, "explained_variance": 0.01})


def _vectors(name: str, change: Callable[[VectorTable], VectorTable]) -> Callable[[Path], None]:
    return lambda storage: _rewrite(storage / f"{name}.parquet", change)


def _dataset(change: Callable[[CtrDataset], CtrDataset]) -> Callable[[Path], None]:
    def write(storage: Path) -> None:
        folder = storage / "train_dataset"
        changed = change(CtrDataset.read(folder))
        changed.write(folder.resolve())

    return write


def _unknown_target(dataset: CtrDataset) -> CtrDataset:
    item_id = dataset.train.item_id.copy()
    item_id[0] = 10**6
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, item_id=item_id))


def _with_a_label_of_2(dataset: CtrDataset) -> CtrDataset:
    assert dataset.train.label is not None
    label = dataset.train.label.copy()
    label[0] = 2
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, label=label))


def _targets_from_histories(dataset: CtrDataset) -> CtrDataset:
    last = dataset.histories.values[dataset.histories.offsets[1:] - 1]
    train = dataclasses.replace(dataset.train, item_id=last[dataset.train.history])
    return dataclasses.replace(dataset, train=train)


def _half_the_valid_users_in_train(dataset: CtrDataset) -> CtrDataset:
    users = np.unique(dataset.valid.user_id)
    moved = users[: len(users) // 2]
    user_id = dataset.train.user_id.copy()
    user_id[: len(moved)] = moved
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, user_id=user_id))


def _valid_items_not_in_train(dataset: CtrDataset) -> CtrDataset:
    rows_by_item = np.bincount(dataset.histories.values, minlength=dataset.items.item_id.max() + 1)
    in_no_history = np.setdiff1d(dataset.items.item_id, np.flatnonzero(rows_by_item))
    new_item, other_item = in_no_history[:2]
    train_items = dataset.train.item_id.copy()
    train_items[train_items == new_item] = other_item
    valid_items = np.full_like(dataset.valid.item_id, new_item)
    return dataclasses.replace(
        dataset,
        train=dataclasses.replace(dataset.train, item_id=train_items),
        valid=dataclasses.replace(dataset.valid, item_id=valid_items),
    )


def _below_the_baselines(storage: Path) -> None:
    """Record baselines that the model does not beat."""
    model = ModelFile.load(storage / "latest_model.pt")
    better = {name: {**values, "low": -0.01} for name, values in model.baselines.items()}
    write_version(storage, dataclasses.replace(model, baselines=better))


def _rejected_challenger(storage: Path) -> None:
    """Record that the last challenger was rejected."""
    contest = read_contest(storage)
    write_record(storage / "contest.json", {**contest, "promoted": False})


def _without_the_last_row(storage: Path) -> None:
    path = storage / "submission.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def _without_a_column(table: VectorTable) -> VectorTable:
    return dataclasses.replace(table, vectors=table.vectors[:, 1:])


def _ids_in_another_order(storage: Path) -> None:
    """Swap two rows of the submission."""
    path = storage / "submission.csv"
    header, first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, second, first, *rest]) + "\n")


def _other_scores_accepted(storage: Path) -> None:
    """Record an accepted night with other scores."""
    night = Night.read(storage, "accepted")
    assert night is not None
    scores = profile_scores(np.full(1_000, 0.99), 1_000)
    dataclasses.replace(night, scores=scores).write(storage, "accepted")


FAULTS: dict[str, Callable[[Path], None]] = {
    "text_embeddings.shape": _vectors("text_embeddings", _without_an_item),
    "text_embeddings.finite_norms": _vectors("text_embeddings", _with_nan),
    "text_embeddings.norm_outliers": _vectors("text_embeddings", _with_many_outliers),
    "image_embeddings.shape": _vectors("image_embeddings", _without_an_item),
    "image_embeddings.finite_norms": _vectors("image_embeddings", _with_nan),
    "image_embeddings.norm_outliers": _vectors("image_embeddings", _with_many_outliers),
    "image_embeddings.image_coverage": _vectors("image_embeddings", _mostly_masked),
    "fused_pca.shape": _vectors("fused_pca", _without_a_column),
    "fused_pca.finite_norms": _vectors("fused_pca", _with_nan),
    "fused_pca.explained_variance": _vectors("fused_pca", _with_little_explained_variance),
    "train_dataset.id_ranges": _dataset(_unknown_target),
    "train_dataset.label_values": _dataset(_with_a_label_of_2),
    "train_dataset.target_in_history": _dataset(_targets_from_histories),
    "train_dataset.user_overlap": _dataset(_half_the_valid_users_in_train),
    "train_dataset.unseen_values": _dataset(_valid_items_not_in_train),
    "trained_model.auc_floor": _below_the_baselines,
    "champion.challenger_promoted": _rejected_challenger,
    "submission_csv.submission_valid": _without_the_last_row,
    "submission_csv.score_drift": _other_scores_accepted,
}
OTHER_FAULTS = {
    "text_embeddings.shape": _vectors("text_embeddings", _without_a_column),
    "submission_csv.submission_valid": _ids_in_another_order,
}


def test_there_is_a_fault_for_every_check() -> None:
    assert set(FAULTS) == {
        f"{asset}.{name}"
        for asset, names in CHECKS.items()
        for name in names
        if asset not in SOURCES
    }


@pytest.mark.parametrize(("check", "fault"), [*FAULTS.items(), *OTHER_FAULTS.items()])
def test_a_fault_makes_only_its_own_check_fail(
    check: str, fault: Callable[[Path], None], finished_run: FinishedRun, tmp_path: Path
) -> None:
    asset, name = check.split(".")
    storage = finished_run.copy(tmp_path).storage
    fault(storage)
    evaluations = _run_checks(asset, finished_run.deployment.data, storage)
    failed = {key for key, evaluation in evaluations.items() if not evaluation.passed}
    assert failed == {name}
    warns = evaluations[name].severity is dg.AssetCheckSeverity.WARN
    only_warn = ("user_overlap", "unseen_values", "challenger_promoted", "score_drift")
    assert warns == (name in only_warn)

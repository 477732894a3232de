"""`mmctr models`: list the versions of models, promote one, and roll back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.writable import require_writable

if TYPE_CHECKING:
    from mmctr_pipeline.registry.champion import Champion

_KEEP_SUBMISSION = click.option(
    "--keep-submission",
    is_flag=True,
    help="Leave submission.csv as it is, instead of scoring the test rows again.",
)


@click.group()
def models() -> None:
    """List the versions of models, promote one of them, or roll back to the one before."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_models(as_json: bool) -> None:
    """List the versions in the storage folder, the newest first."""
    from tabulate import tabulate

    from mmctr_pipeline.registry.champion import Champion
    from mmctr_pipeline.registry.versions import newest_first

    storage = _storage()
    champion = Champion.read(storage)
    rows = [_row(storage, version, champion) for version in newest_first(storage)]
    if as_json:
        print(json.dumps(rows))
    elif rows:
        print(tabulate(rows, headers="keys", disable_numparse=True))
    else:
        print(f"{storage / 'models'} has no versions yet; `make run` trains one")


@models.command()
@click.argument("version")
@click.option("--reason", default="by hand", help="Why; kept in champion.json.")
@_KEEP_SUBMISSION
def promote(version: str, reason: str, keep_submission: bool) -> None:
    """Make VERSION the champion without a comparison, and score the test rows with it.

    Data that are blocked are not scored: correct them, accept them, or add --keep-submission.
    """
    _promote(_storage(), version, reason, keep_submission)


@models.command()
@_KEEP_SUBMISSION
def rollback(keep_submission: bool) -> None:
    """Make the champion before this one the champion again, and score the test rows with it."""
    from mmctr_pipeline.registry.champion import Champion, previous_version

    storage = _storage()
    champion = Champion.read(storage)
    version = previous_version(storage, champion)
    assert champion is not None
    _promote(storage, version, f"roll-back from {champion.version}", keep_submission)


def _storage() -> Path:
    storage = Deployment.from_environment().storage_dir
    require_writable(storage, "MMCTR_STORAGE_DIR")
    return storage


def _row(storage: Path, version: str, champion: "Champion | None") -> dict[str, Any]:
    """Return the figures of a version, from its `metrics.json`."""
    from mmctr_pipeline.files.records import read_record

    found = read_record(storage / "models" / version / "metrics.json")
    metrics = found["metrics"]
    roles = []
    if champion is not None:
        former = [record["version"] for record in champion.former]
        roles = [
            name
            for name, is_role in {
                "champion": version == champion.version,
                "best": version == champion.best,
                "former": version in former and version != champion.version,
                "withdrawn": version in champion.withdrawn,
            }.items()
            if is_role
        ]
    return {
        "version": version,
        "role": ", ".join(roles),
        "model": found["model_config"]["name"],
        "preset": found["preset"] or "",
        "day": found.get("data_day", ""),
        "data": found["data_fingerprint"][:8],
        "AUC when trained": f"{metrics['valid_auc']:.4f}",
        "95 % interval": f"{metrics['valid_auc_low']:.4f} to {metrics['valid_auc_high']:.4f}",
    }


def _promote(storage: Path, version: str, reason: str, keep_submission: bool) -> None:
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.monitoring.night import require_not_blocked
    from mmctr_pipeline.registry.contest import promote_by_hand
    from mmctr_pipeline.reporting.contest import write_contest

    if not keep_submission:
        require_not_blocked(storage, CtrDataset.read(storage / "train_dataset").fingerprint)
    outcome = promote_by_hand(storage, version, reason)
    outcome.champion.write(storage)
    write_contest(storage, outcome)
    print(f"{version} is the champion: best_model.pt points to it")
    if keep_submission:
        print("submission.csv is unchanged; materialise submission_csv to score with this model")
        _publish(storage, "champion")
        return
    n_rows = _submit(storage)
    print(f"submission.csv has its scores of {n_rows:,} test rows, read back and compared")
    _publish(storage, "champion", "submission_csv")


def _publish(storage: Path, *names: str) -> None:
    """Publish artefacts as a run does, if MMCTR_PUBLISH_URL is set."""
    from mmctr_pipeline.publishing.publish import publish
    from mmctr_pipeline.publishing.store import ObjectStore

    url = Deployment.from_environment().publish_url
    if url is not None:
        for name in names:
            publish(storage, ObjectStore(url), name)
        print(f"published at {url}: {', '.join(names)}")


def _submit(storage: Path) -> int:
    """Score the test rows of the storage folder with the champion; verify and count them."""
    import numpy as np

    from mmctr_pipeline import pipeline
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
    from mmctr_pipeline.recorded_vectors import vectors_for
    from mmctr_pipeline.registry.champion import Champion
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample
    from mmctr_pipeline.submission.files import (
        SubmissionError,
        read_submission,
        submission_frame,
        write_submission,
    )
    from mmctr_pipeline.training.device import resolve_device

    deployment = Deployment.from_environment()
    device = resolve_device(deployment.device)
    layout = find_data(deployment.data_dir or ensure_sample(SampleConfig(), storage / "sample"))
    dataset = CtrDataset.read(storage / "train_dataset")
    tables = ("fused_pca", "text_embeddings", "image_embeddings")
    present = ItemVectors(*(VectorTable.read(storage / f"{name}.parquet") for name in tables))

    def scores() -> np.ndarray:
        champion = Champion.read(storage)
        assert champion is not None
        model = champion.load(storage)
        vectors = vectors_for(model, present, layout, dataset.items, storage, device)
        return pipeline.score(model, dataset, dataset.test, vectors, device)

    assert dataset.test.row_id is not None
    path = storage / "submission.csv"
    frame = submission_frame(dataset.test.row_id, scores())
    write_submission(frame, path, storage / "prediction.zip")
    if not read_submission(path).equals(submission_frame(dataset.test.row_id, scores())):
        raise SubmissionError(f"{path} does not hold the scores of the champion: run this again")
    return len(frame)

"""`mmctr prune`."""

import click

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.writable import require_writable


@click.command()
@click.option(
    "--unused-days",
    default=30,
    help="Drop vectors that were last used, and checkpoints that were last written, more than this "
    "many days ago.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be dropped.")
def prune(unused_days: int, dry_run: bool) -> None:
    """Drop stored vectors and checkpoints that have not been used for some time."""
    storage = Deployment.from_environment().storage_dir
    require_writable(storage, "MMCTR_STORAGE_DIR")
    from mmctr_pipeline.encoders.store.prune import prune as prune_vectors
    from mmctr_pipeline.training.checkpoint import Checkpoints, abandoned

    drop = "would drop" if dry_run else "dropped"

    def counts(n_kept: int, kept_bytes: int, n_dropped: int, dropped_bytes: int) -> str:
        kept = f"kept {n_kept:,} vectors ({kept_bytes / 1e6:,.1f} MB)"
        return f"{kept}, {drop} {n_dropped:,} ({dropped_bytes / 1e6:,.1f} MB)"

    reports = prune_vectors(storage / "vectors", unused_days, dry_run=dry_run)
    for folder in abandoned(storage, unused_days):
        print(f"{folder.name}: {drop} its checkpoint")
        if not dry_run:
            Checkpoints(folder).remove()
    if not reports:
        print(f"{storage / 'vectors'} has no stored vectors")
        return
    totals = [0, 0, 0, 0]
    for report in reports:
        if report.in_use:
            print(f"{report.encoder}: in use by a run, skipped")
            continue
        numbers = report.n_kept, report.kept_bytes, report.n_dropped, report.dropped_bytes
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        leftovers = f"{report.n_left_behind:,} leftover files"
        print(f"{report.encoder}: {counts(*numbers)} and {leftovers}")
    print(f"total: {counts(*totals)}")

"""`mmctr reap`."""

import os

import click

from mmctr_pipeline.settings import SettingsError


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0),
    help="Also count a run as dead if it holds no lock here and has recorded no event for this "
    "many minutes. By default such runs are left alone.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
def reap(minutes: float | None, dry_run: bool) -> None:
    """Record the runs of DAGSTER_HOME as failed whose process is gone, and free their pool slots.

    Prints one line for each unfinished run. Live runs are never touched.
    """
    if not os.environ.get("DAGSTER_HOME"):
        raise SettingsError(
            'DAGSTER_HOME is not set. Fix: name the home of the runs: export DAGSTER_HOME="..."'
        )
    from mmctr_pipeline.defs.dead_runs import end_dead_runs, unfinished_runs
    from mmctr_pipeline.defs.launches import open_instance

    with open_instance() as instance:
        unfinished = unfinished_runs(instance, minutes)
        ended = set()
        if not dry_run:
            ended = {dead.run.run_id for dead in end_dead_runs(instance, minutes)}
    for each in unfinished:
        if each.alive is False:
            if dry_run:
                done = "would be recorded as ended"
            else:
                done = "recorded as ended" if each.run.run_id in ended else "has ended by itself"
        else:
            done = "left alone"
            if each.alive is None:
                done += "; use --minutes N to end it after N silent minutes"
        print(f"{each.label}: {each.reason}; {done}")
    if not unfinished:
        print("there are no unfinished runs")

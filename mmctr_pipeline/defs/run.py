"""`make run` and `make demo`: run the whole pipeline, show its progress and print a summary."""

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence

import click

from mmctr_pipeline.defs.forkserver import start_forkserver
from mmctr_pipeline.defs.stop_signals import StopSignals
from mmctr_pipeline.environment import Deployment, DeploymentError, unknown_variables
from mmctr_pipeline.presets.preset import load_preset, preset_name
from mmctr_pipeline.settings import SettingsError


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Turn the garbage collector off until the job starts; `launch` turns it on again then.

    Until then this process mostly imports modules, and the collector would search all their objects
    over and over, which takes a fifth of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main(arguments: Sequence[str] = ()) -> int:
    """Run the pipeline for the deployment of this environment; return the exit status."""
    parser = argparse.ArgumentParser("make run", description="Run the whole pipeline.")
    parser.add_argument(
        "--day", help="last day of the window, YYYY-MM-DD, for logs by day (make run DAY=...)"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait while another run writes to the storage folder (make run WAIT=1); otherwise, "
        "end with status 75",
    )
    chosen = parser.parse_args(arguments)
    # Progress bars of libraries would mix with the printed events.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # After a kill, Python's resource tracker removes the run's semaphores, with a needless warning.
    warnings = (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
    for sentence in unknown_variables():
        click.echo(f"warning: {sentence}", err=True)
    with StopSignals() as stop, _without_collector():
        try:
            deployment = Deployment.from_environment()
            preset = load_preset(preset_name(deployment))
            if os.environ.get("MMCTR_CRON"):
                # Of a wrong value, the forkserver would show a traceback.
                from mmctr_pipeline.defs.config import nightly_cron

                nightly_cron()
            if deployment.executor == "multiprocess":
                # The forkserver imports its modules while this process imports the same ones.
                start_forkserver(preset.encoders)
            # Imported inside the block, as the import takes long and a signal may come meanwhile.
            from mmctr_pipeline.defs.launch import launch_pipeline

            status = launch_pipeline(stop, chosen.day, chosen.wait)
        except (SettingsError, DeploymentError) as error:
            click.echo(f"error: {error}")
            status = 2
        except KeyboardInterrupt:
            status = stop.exit_status
    if stop.received:
        click.echo(stop.advice)
        return stop.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

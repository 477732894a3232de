"""`make run` and `make demo`: run the whole pipeline, show its progress and print a summary."""

import os
import sys

import click

from mmctr_pipeline.defs.stop_signals import StopSignals


def main() -> int:
    """Run the pipeline for the deployment of this environment; return the exit status."""
    # Progress bars of libraries do not mix with the printed events.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # After a kill, Python's tracker removes the semaphores of the run: nothing to warn about.
    warnings = (os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, warnings))
    with StopSignals() as stop:
        try:
            # Imported here, as it is slow and a signal may come meanwhile.
            from mmctr_pipeline.defs.launch import launch_pipeline

            status = launch_pipeline(stop)
        except KeyboardInterrupt:
            status = stop.exit_status
    if stop.received:
        click.echo(stop.advice)
        return stop.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main())

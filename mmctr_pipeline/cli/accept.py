"""`mmctr accept`."""

import click

from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.files.writable import require_writable


@click.command()
def accept() -> None:
    """Accept the latest night's data as they are, so that later nights are compared with them.

    A night whose data differ too much from the last accepted night's is blocked. If the change is
    meant, accept it and run again.
    """
    storage = Deployment.from_environment().storage_dir
    require_writable(storage, "MMCTR_STORAGE_DIR")
    from mmctr_pipeline.monitoring.night import accept_latest

    night = accept_latest(storage)
    if night is None:
        raise click.ClickException(
            f"no data have been checked in {storage}: run the pipeline first"
        )
    was = f"blocked: {night.blocked}" if night.blocked else "not blocked"
    day = f" of {night.profile.day}" if night.profile.day else ""
    print(
        f"accepted the data{day} with fingerprint {night.profile.fingerprint:.12}, which were {was}"
    )

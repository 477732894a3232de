"""`mmctr push` and `mmctr pull`."""

from typing import TYPE_CHECKING

import click

from mmctr_pipeline.environment import Deployment, DeploymentError
from mmctr_pipeline.files.writable import require_writable
from mmctr_pipeline.publishing.artefacts import ARTEFACTS

if TYPE_CHECKING:
    from mmctr_pipeline.publishing.store import ObjectStore

_NAMES = click.argument("names", nargs=-1, type=click.Choice(list(ARTEFACTS)), metavar="[ASSET]...")


@click.command()
@_NAMES
def push(names: tuple[str, ...]) -> None:
    """Publish the artefacts in the storage folder to MMCTR_PUBLISH_URL: all, or those of ASSETs.

    Runs do this by themselves while the variable is set. Use this command for artefacts that were
    written before, or while the store could not be reached.
    """
    from mmctr_pipeline.publishing.publish import publish

    deployment, store = _places()
    pushed = [name for name in names or ARTEFACTS if publish(deployment.storage_dir, store, name)]
    if missing := [name for name in names if name not in pushed]:
        raise click.ClickException(
            f"{deployment.storage_dir} has no {', '.join(missing)}. Fix: materialise them first"
        )
    if not pushed:
        raise click.ClickException(f"{deployment.storage_dir} has no artefacts to publish")
    print(f"published at {store.url}: {', '.join(pushed)}")


@click.command()
@_NAMES
@click.option("--replace", is_flag=True, help="Replace files here that differ from the published.")
def pull(names: tuple[str, ...], replace: bool) -> None:
    """Fetch the artefacts at MMCTR_PUBLISH_URL into the storage folder: all, or those of ASSETs."""
    from mmctr_pipeline.publishing.fetch import fetch

    deployment, store = _places()
    require_writable(deployment.storage_dir, "MMCTR_STORAGE_DIR")
    fetched = fetch(deployment.storage_dir, store, names, replace=replace)
    n_bytes = sum(artefact.n_bytes for artefact in fetched)
    print(
        f"{deployment.storage_dir} has what was published at {store.url}: "
        f"{', '.join(artefact.name for artefact in fetched)} ({n_bytes / 1e6:,.1f} MB fetched)"
    )


def _places() -> "tuple[Deployment, ObjectStore]":
    from mmctr_pipeline.publishing.store import ObjectStore

    deployment = Deployment.from_environment()
    if deployment.publish_url is None:
        raise DeploymentError(
            "MMCTR_PUBLISH_URL is not set. Fix: set it to the place of the published artefacts, "
            "such as s3://bucket/folder"
        )
    return deployment, ObjectStore(deployment.publish_url)

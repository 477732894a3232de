"""`mmctr export`."""

from pathlib import Path

import click

from mmctr_pipeline.cli.score import MODEL
from mmctr_pipeline.environment import Deployment


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@MODEL
def export(folder: Path, model: Path | None) -> None:
    """Write a model into FOLDER as a torch.export program that needs torch alone.

    FOLDER also gets the item tables, the rows of items and users, the learned item embeddings and
    a JSON schema. An earlier export in FOLDER is replaced.
    """
    from mmctr_pipeline.serving.export import export as write_export
    from mmctr_pipeline.serving.scorer import Scorer

    deployment = Deployment.from_environment()
    scorer = Scorer.load(model or deployment.storage_dir, "cpu", deployment.data_dir)
    schema = write_export(scorer, folder)["mmctr"]
    for number_format, largest in schema["largest_difference_to_pipeline"].items():
        print(f"largest difference to the pipeline in {number_format}: {largest:.2g}")
    print(f"{schema['model']} exported: {folder}")

"""`mmctr export`."""

from pathlib import Path

import click

from mmctr_pipeline.cli.score import MODEL
from mmctr_pipeline.environment import Deployment


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--compile",
    "to_machine_code",
    is_flag=True,
    help="Also compile the program for candidates to machine code; needs a C++ compiler.",
)
@MODEL
def export(folder: Path, to_machine_code: bool, model: Path | None) -> None:
    """Write a model into FOLDER as torch.export programs that need torch alone.

    One scores rows, the other the candidates of one user. FOLDER also gets the item tables, the
    rows of items and users, the learned item embeddings and a JSON schema. An earlier export in
    FOLDER is replaced.
    """
    from mmctr_pipeline.serving.export import export as write_export
    from mmctr_pipeline.serving.scorer import Scorer

    deployment = Deployment.from_environment()
    scorer = Scorer.load(model or deployment.storage_dir, "cpu", deployment.data_dir)
    schema = write_export(scorer, folder, to_machine_code)["mmctr"]
    for number_format, largest in schema["largest_difference_to_pipeline"].items():
        print(f"largest difference to the pipeline in {number_format}: {largest:.2g}")
    print(f"{schema['model']} exported: {folder}")

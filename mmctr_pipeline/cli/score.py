"""`mmctr score` and `mmctr recommend`."""

from pathlib import Path

import click

from mmctr_pipeline.environment import Deployment

MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Storage folder, folder of a version, or model file.  [default: the champion of the "
    "storage folder]",
)
"""The option --model of the commands that use a model."""


@click.command()
@click.argument("rows", type=click.Path(exists=True, path_type=Path))
@click.option(
    *("-o", "--output"), type=click.Path(path_type=Path), required=True, help="Parquet file."
)
@MODEL
def score(rows: Path, output: Path, model: Path | None) -> None:
    """Score each row of ROWS, which has columns as in test.parquet.

    ROWS is a parquet file, a folder of part files, or a CSV file with lists as 1^2^3. item_id and
    item_seq are needed; user_id, likes_level and views_level are optional. Unknown
    users and items are allowed.
    """
    from mmctr_pipeline.serving.score_file import score_file
    from mmctr_pipeline.serving.scorer import Scorer

    deployment = Deployment.from_environment()
    scorer = Scorer.load(model or deployment.storage_dir, deployment.device, deployment.data_dir)
    n_rows = score_file(scorer, rows, output)
    print(f"{n_rows:,} rows scored: {output}")


@click.command()
@click.option("--user", required=True, help="Id of a user in the train dataset.")
@click.option("--top", type=click.IntRange(min=1), default=20, help="Number of items.")
@MODEL
def recommend(user: str, top: int, model: Path | None) -> None:
    """Print the items that a user most likely clicks, with their titles, best first.

    The history is that of the user's last row of test, else valid, else train; its items are left
    out.
    """
    from tabulate import tabulate

    from mmctr_pipeline.serving.scorer import Scorer

    deployment = Deployment.from_environment()
    scorer = Scorer.load(model or deployment.storage_dir, deployment.device, deployment.data_dir)
    found = scorer.recommend(scorer.user_from_text(user), top=top)
    rows = [(each.probability, each.item_id, each.title) for each in found]
    print(tabulate(rows, headers=("probability", "item", "title"), floatfmt=".4f"))

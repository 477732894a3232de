"""`mmctr atlas`."""

from pathlib import Path

import click

from mmctr_pipeline.environment import Deployment


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def atlas(file: Path) -> None:
    """Write all items with titles, covers and fused vectors into FILE, for Embedding Atlas.

    Then, with the extra atlas: embedding-atlas FILE --vector vector --text title
    """
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.vectors import VectorTable
    from mmctr_pipeline.reporting.atlas import write_atlas
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample

    deployment = Deployment.from_environment()
    storage = deployment.storage_dir
    data = deployment.data_dir or ensure_sample(SampleConfig(), storage / "sample")
    dataset = CtrDataset.read(storage / "train_dataset")
    vectors = VectorTable.read(storage / "fused_pca.parquet")
    n_items = write_atlas(dataset, vectors, find_data(data).images, file)
    print(
        f"{n_items:,} items; look at them with: embedding-atlas {file} --vector vector --text title"
    )

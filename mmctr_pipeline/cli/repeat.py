"""`mmctr repeat`."""

import json

import click


@click.command()
@click.argument("version", required=False)
@click.option(
    "--fresh", is_flag=True, help="Encode all titles and covers again instead of using stored ones."
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads.  [default: as recorded]"
)
def repeat(version: str | None, fresh: bool, threads: int | None) -> int:
    """Repeat the run of VERSION and compare the results byte by byte.

    VERSION is a name in storage/models or a path. If it is omitted, the latest version is repeated.
    The data must be the same as in that run. The exit status is 0 if everything is equal, 1 if
    something differs, and 2 if the run cannot be repeated.
    """
    from tabulate import tabulate

    from mmctr_pipeline.comparison.repeat import as_json, find_version, repeat_run
    from mmctr_pipeline.environment import Deployment
    from mmctr_pipeline.registry.model_file import ModelFile
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample
    from mmctr_pipeline.training.device import resolve_device

    deployment = Deployment.from_environment()
    storage = deployment.storage_dir
    path = find_version(storage, version)
    model_file = ModelFile.load(path)
    data = deployment.data_dir or ensure_sample(SampleConfig(), storage / "sample")
    device = resolve_device(deployment.device)
    repetition = repeat_run(model_file, data, storage, device, fresh, threads)
    rows = [
        (
            result.name,
            # Long names are cut at the beginning, because encoders' names end in a hash.
            result.recorded[-24:],
            result.repeated[-24:],
            "equal" if result.is_equal else ": ".join(filter(None, ["differs", result.difference])),
        )
        for result in repetition.results
    ]
    print(f"\nRepeated {path}\n")
    print(tabulate(rows, ["result", "recorded", "repeated", ""], disable_numparse=True))
    for note in repetition.notes:
        print(f"note: {note}")
    print("\nequal, byte for byte" if repetition.is_equal else "\ndifferent")
    print(json.dumps({"version": str(path), **as_json(repetition)}))
    return 0 if repetition.is_equal else 1

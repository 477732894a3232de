"""Find within seconds, before anything is encoded, what would make a run fail hours later."""

import os
from collections.abc import Collection, Iterator

from mmctr_pipeline.data.discovery import DataLayout, find_data
from mmctr_pipeline.data.window import SplitTables
from mmctr_pipeline.environment import Deployment, DeploymentError
from mmctr_pipeline.preflight import model, storage
from mmctr_pipeline.preflight.data import DataChecks, table_sizes
from mmctr_pipeline.preflight.encoders import EncoderChecks
from mmctr_pipeline.preflight.findings import EXPECTED, Finding, found
from mmctr_pipeline.presets.preset import Preset

VECTOR_ASSETS = {"text_embeddings": "text", "image_embeddings": "image"}
ASSETS = (*VECTOR_ASSETS, "fused_pca", "train_dataset", "trained_model")
"""Assets whose steps the checks belong to."""


def preflight(
    deployment: Deployment, preset: Preset, assets: Collection[str] = ASSETS
) -> list[Finding]:
    """Check a run before it starts: its device, encoders, data, model and storage.

    Of the data, only file footers, the columns of labels and item ids, and the listing of covers
    are read. Without a data folder, the sample dataset is generated. A model that is not on this
    machine is downloaded, if there is a network, as the run would do.

    Parameters
    ----------
    deployment
        Data, storage, device and executor.
    preset
        Settings of the run.
    assets
        The assets that the run materialises; checks that only concern others are left out.
    """
    return list(_findings(deployment, preset, assets))


def _findings(deployment: Deployment, preset: Preset, assets: Collection[str]) -> Iterator[Finding]:
    yield from _device(deployment, preset)
    yield from _ray(preset, assets)
    folder = storage.writable(deployment.storage_dir)
    is_writable = folder.severity == "ok"
    yield folder
    layout: DataLayout | None = None
    # The sample dataset is written to the storage folder.
    if deployment.data_dir or is_writable:
        try:
            layout = _layout(deployment)
        except EXPECTED as error:
            where = str(deployment.data_dir or deployment.storage_dir)
            yield Finding("error", "data", where, str(error), error)
    splits = None
    if layout is not None:
        data = DataChecks(layout, preset.data)
        yield from data.tables()
        if {"train_dataset", "trained_model"} & set(assets):
            yield from data.labels()
        splits = data.splits
    encoders = EncoderChecks(preset.encoders, layout)
    if "text_embeddings" in assets:
        yield from encoders.template()
    yield from encoders.vectors(
        tuple(kind for asset, kind in VECTOR_ASSETS.items() if asset in assets)
    )
    if "image_embeddings" in assets:
        yield from encoders.covers(preset.checks)
    if "trained_model" in assets:
        yield from _model_and_space(deployment, preset, encoders.dims, layout, splits, is_writable)


def _layout(deployment: Deployment) -> DataLayout:
    if deployment.data_dir is not None:
        return find_data(deployment.data_dir)
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample

    return find_data(ensure_sample(SampleConfig(), deployment.storage_dir / "sample"))


def _device(deployment: Deployment, preset: Preset) -> Iterator[Finding]:
    if deployment.executor == "k8s":
        return  # each step runs on a machine of its own
    name = deployment.device
    wanted = {
        "encoders.text.precision": preset.encoders.text.precision,
        "encoders.image.precision": preset.encoders.image.precision,
        "training.precision": preset.training.precision,
    }
    slow = [where for where, precision in wanted.items() if precision == "bfloat16"]

    def examine() -> str:
        if name == "cpu":
            return name
        from mmctr_pipeline.training.device import resolve_device

        return str(resolve_device(name))

    device = found("device", "MMCTR_DEVICE", examine)
    yield device
    if slow and device.severity == "ok":
        from mmctr_pipeline.precision import multiplies_in_bfloat16

        if not multiplies_in_bfloat16(device.text):
            text = f"bfloat16 is slower than float32 on this {device.text}. Fix: set it to auto"
            yield Finding("warning", "precision", ", ".join(slow), text)


def _ray(preset: Preset, assets: Collection[str]) -> Iterator[Finding]:
    """Yield whether Ray is installed and its cluster answers, if a step runs on it."""
    computes = {
        "text_embeddings": ("encoders.text.compute", preset.encoders.text.compute),
        "image_embeddings": ("encoders.image.compute", preset.encoders.image.compute),
        "trained_model": ("training.compute", preset.training.compute),
    }
    chosen = [
        name for asset, (name, compute) in computes.items() if asset in assets and compute == "ray"
    ]
    if not chosen:
        return
    n_ranks = preset.training.workers if "training.compute" in chosen else 1

    def examine() -> str:
        from mmctr_pipeline.cluster.ray_session import require_ray

        if (address := require_ray()) != "local":
            return f"RAY_ADDRESS is {address}"
        n_cpus = os.cpu_count() or 1
        if n_ranks > n_cpus:
            raise DeploymentError(
                f"training.workers is {n_ranks}, but this machine has {n_cpus} CPUs. Fix: lower "
                "training.workers, or name a larger cluster in RAY_ADDRESS"
            )
        return "Ray starts on this machine"

    yield found("ray", ", ".join(chosen), examine)


def _model_and_space(
    deployment: Deployment,
    preset: Preset,
    dims: dict[str, int],
    layout: DataLayout | None,
    splits: SplitTables | None,
    is_writable: bool,
) -> Iterator[Finding]:
    """Yield whether the model can be built, and whether the storage folder has room for a run."""
    # A vector table without vectors has one dimension.
    widths = {kind: max(dim, 1) for kind, dim in dims.items()}
    dims = {**dims, "fused": min(preset.fusion.dim, sum(widths.values()))}
    try:
        sizes = table_sizes(layout, splits)
    except EXPECTED as error:
        yield Finding("error", "tables", "item_feature, train", str(error), error)
        return
    n_weights = 0

    def build() -> str:
        nonlocal n_weights
        n_weights = model.count_weights(preset.model, dims, sizes)
        return f"{preset.model.name}, at most about {n_weights:,} weights"

    yield found("model", "model", build)
    if layout is None or splits is None or not is_writable:
        return
    n_bytes = sum(path.stat().st_size for table in splits.by_name.values() for path in table.files)
    parts = storage.estimate(
        deployment.storage_dir,
        sizes.n_items,
        dims,
        n_bytes,
        n_weights,
        sizes.n_train_rows if model.keeps_co_interactions(preset.model) else 0,
    )
    yield storage.space(deployment.storage_dir, parts)

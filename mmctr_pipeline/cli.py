"""`mmctr`: the few commands that are not Dagster's."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmctr_pipeline.environment import Deployment, DeploymentError, share_cores
from mmctr_pipeline.settings import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="mmctr", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="generate a sample world into a folder")
    sample.add_argument("folder", type=Path, help="where to; made if it is not there")
    sample.add_argument("--seed", type=int, default=7)
    sample.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="size: 1 is the default world, 90 the size of MicroLens_1M_x1",
    )
    sample.add_argument("--no-images", action="store_true", help="leave out the cover images")
    sample.set_defaults(run=_sample)

    ablation = commands.add_parser(
        "ablation", help="valid AUC with titles and images, with either, and with neither"
    )
    ablation.add_argument("--scale", type=float, default=2.0, help="size of the sample world")
    ablation.add_argument("--seed", type=int, default=7, help="seed of the sample world")
    ablation.set_defaults(run=_ablation)

    chosen = parser.parse_args(arguments)
    share_cores()
    try:
        return chosen.run(chosen)
    except (SettingsError, DeploymentError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _sample(chosen: argparse.Namespace) -> int:
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import generate_sample

    if chosen.folder.exists() and any(chosen.folder.iterdir()):
        raise FileExistsError(f"{chosen.folder} is not empty; name a new folder")
    config = SampleConfig.scaled(chosen.scale, seed=chosen.seed, images=not chosen.no_images)
    generate_sample(config, chosen.folder, _log)
    print(f"MMCTR_DATA_DIR={chosen.folder.resolve()}")
    return 0


def _ablation(chosen: argparse.Namespace) -> int:
    from mmctr_pipeline.data.discovery import find_data
    from mmctr_pipeline.data.interactions import build_dataset
    from mmctr_pipeline.encoders.image import encode_images
    from mmctr_pipeline.encoders.text import encode_titles
    from mmctr_pipeline.evaluation.ablation import compare_modalities
    from mmctr_pipeline.presets.preset import load_preset
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample, read_best_possible_auc
    from mmctr_pipeline.training.device import resolve_device

    deployment = Deployment.from_environment()
    device = resolve_device(deployment.device)
    preset = load_preset(deployment.preset or "sample")
    config = SampleConfig.scaled(chosen.scale, seed=chosen.seed)
    world = ensure_sample(config, deployment.storage_dir / "sample", _log)
    layout = find_data(world)
    dataset = build_dataset(layout, _log)
    text = encode_titles(dataset.items, preset.encoders.text, device, _log)
    image = encode_images(
        dataset.items.item_id, layout.images, preset.encoders.image, device, _log
    ).table
    result = compare_modalities(
        dataset, text, image, preset.fusion, preset.model, preset.training, device, _log
    )

    print(
        f"\nworld {config.key}: {len(dataset.train):,} train and {len(dataset.valid):,} valid rows"
    )
    print(f"best possible AUC {read_best_possible_auc(world):.4f}\n")
    for variant, interval in result.auc.items():
        print(f"{variant:<12} {interval.auc:.4f}  [{interval.low:.4f}, {interval.high:.4f}]")
    print()
    for (better, worse), comparison in result.comparisons.items():
        print(
            f"{better} - {worse}: {comparison.difference:+.4f} "
            f"[{comparison.low:+.4f}, {comparison.high:+.4f}], p = {comparison.p_value:.2g}"
        )
    line = {
        "name": "ablation",
        "world": config.key,
        "best_possible_auc": read_best_possible_auc(world),
        "valid_auc": {variant: interval.auc for variant, interval in result.auc.items()},
        "p_values": {
            f"{better} > {worse}": comparison.p_value
            for (better, worse), comparison in result.comparisons.items()
        },
    }
    print(json.dumps(line))
    return 0


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

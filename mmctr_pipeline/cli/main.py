"""`mmctr`: the few commands that are not Dagster's."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmctr_pipeline.environment import Deployment, DeploymentError, share_cores
from mmctr_pipeline.settings import SettingsError

if TYPE_CHECKING:
    from mmctr_pipeline.comparison.encoded import EncodedWorld
    from mmctr_pipeline.sample.config import SampleConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="mmctr", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="generate a sample dataset into a folder")
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
    ablation.add_argument("--scale", type=float, default=2.0, help="size of the sample dataset")
    ablation.add_argument("--seed", type=int, default=7, help="seed of the sample dataset")
    ablation.set_defaults(run=_ablation)

    fusions = commands.add_parser(
        "fusions", help="valid AUC with the vectors of each fusion, paired by seed of training"
    )
    fusions.add_argument("--train-rows", type=int, default=20_000)
    fusions.add_argument("--valid-rows", type=int, default=50_000)
    fusions.add_argument("--seeds", type=int, default=5, choices=range(2, 11), metavar="2..10")
    fusions.add_argument("--seed", type=int, default=11, help="seed of the sample dataset")
    fusions.set_defaults(run=_fusions)

    board = commands.add_parser(
        "leaderboard", help="the models of several presets on the same data, in one table"
    )
    board.add_argument(
        "presets",
        nargs="*",
        metavar="PRESET",
        help="names or paths; model and training of each are compared, the first with the others "
        "(default: all shipped ones that differ, ordered by AUC)",
    )
    board.add_argument(
        "--minutes", type=_minutes, default=20.0, help="training of a row at most; 0: no limit"
    )
    board.add_argument("--seeds", type=int, default=1, choices=range(1, 11), metavar="1..10")
    board.add_argument("--again", action="store_true", help="train rows that are done as well")
    board.add_argument("--name", default="leaderboard", help="name of the table's files")
    world = board.add_argument_group("the sample dataset that stands in where there are no data")
    world.add_argument("--scale", type=float, help="its size (default: 7.5, 300,000 train rows)")
    world.add_argument("--train-rows", type=int)
    world.add_argument("--valid-rows", type=int, help="half of them report (default: 40,000)")
    world.add_argument("--seed", type=int, help="its seed (default: 7)")
    board.set_defaults(run=_leaderboard)

    prune = commands.add_parser(
        "prune", help="drop remembered vectors and checkpoints that are no longer used"
    )
    prune.add_argument(
        "--unused-days",
        type=int,
        default=30,
        help="drop what was last used more than this many days ago",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    prune.set_defaults(run=_prune)

    chosen = parser.parse_args(arguments)
    share_cores()
    try:
        return chosen.run(chosen)
    except _errors_with_advice() as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _errors_with_advice() -> tuple[type[Exception], ...]:
    """Return the errors whose messages tell users what to mend; no traceback is needed there."""
    from mmctr_pipeline.comparison.user_split import HalvesError
    from mmctr_pipeline.data.discovery import DataNotFoundError
    from mmctr_pipeline.data.validation import DataError
    from mmctr_pipeline.training.ctr import TrainingDataError

    of_settings = (SettingsError, DeploymentError, FileExistsError)
    return (*of_settings, DataNotFoundError, DataError, HalvesError, TrainingDataError)


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
    from mmctr_pipeline.comparison.ablation import compare_modalities
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import read_best_possible_auc

    config = SampleConfig.scaled(chosen.scale, seed=chosen.seed)
    world = _encoded_world(config)
    dataset, preset = world.dataset, world.preset
    result = compare_modalities(
        dataset,
        world.text,
        world.image,
        preset.fusion,
        preset.model,
        preset.training,
        world.device,
        _log,
    )
    best = read_best_possible_auc(world.folder)

    print(
        f"\nworld {config.key}: {len(dataset.train):,} train and {len(dataset.valid):,} valid rows"
    )
    print(f"best possible AUC {best:.4f}\n")
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
        "best_possible_auc": best,
        "valid_auc": {variant: interval.auc for variant, interval in result.auc.items()},
        "p_values": {
            f"{better} > {worse}": comparison.p_value
            for (better, worse), comparison in result.comparisons.items()
        },
    }
    print(json.dumps(line))
    return 0


def _fusions(chosen: argparse.Namespace) -> int:
    from mmctr_pipeline.comparison.fusions import compare_fusions
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import read_best_possible_auc

    n_test_rows = 1_000
    n_rows = chosen.train_rows + chosen.valid_rows + n_test_rows
    config = SampleConfig(
        seed=chosen.seed,
        n_train_rows=chosen.train_rows,
        n_valid_rows=chosen.valid_rows,
        n_test_rows=n_test_rows,
        # As many rows to a user as in the default world.
        n_users=n_rows * 12 // 100,
    )
    world = _encoded_world(config)
    preset = world.preset
    result = compare_fusions(
        world.dataset,
        world.text,
        world.image,
        preset.fusion,
        preset.model,
        preset.training,
        range(1, chosen.seeds + 1),
        world.device,
        _log,
    )
    best = read_best_possible_auc(world.folder)
    print(f"\nworld {config.key}, best possible AUC {best:.4f}\n")
    print("\n".join(result.lines()))
    line = {"name": "fusions", "world": config.key, "best_possible_auc": best}
    print(json.dumps(line | result.to_mapping()))
    return 0


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of minutes, 0 or more")
    return value


def _leaderboard(chosen: argparse.Namespace) -> int:
    from mmctr_pipeline.comparison.encoded import encode_world
    from mmctr_pipeline.comparison.entries import leaderboard_entries
    from mmctr_pipeline.comparison.inputs import best_possible_auc
    from mmctr_pipeline.comparison.report import write_report
    from mmctr_pipeline.comparison.runner import Runner
    from mmctr_pipeline.comparison.user_split import selection_half
    from mmctr_pipeline.presets.preset import preset_name

    deployment = Deployment.from_environment()
    entries, preset = leaderboard_entries(chosen.presets), preset_name(deployment)
    world = encode_world(_leaderboard_data(deployment, chosen), preset, deployment, _log)
    inputs = world.fused(_log)
    runner = Runner(inputs, world.storage, world.device, chosen.minutes, _log, chosen.again)
    result = runner.run(entries, chosen.seeds, by_auc=not chosen.presets)
    best = best_possible_auc(world.folder, ~selection_half(inputs.dataset.valid.user_id))
    heading = (
        f"{world.folder.name}: {len(inputs.dataset.train):,} train rows, AUC on "
        f"{result.n_reporting_rows:,} valid rows of users that selected no epoch; each preset's "
        f"own epochs or {chosen.minutes:g} minutes of training on {world.device}, whichever is less"
    )
    lines = write_report(result, runner.folder, chosen.name, heading, best)
    print("\n".join(["", *lines, "", f"written to {runner.folder / chosen.name}.md"]))
    line = {"name": "leaderboard", "data": str(world.folder), "best_possible_auc": best}
    print(json.dumps(line | result.to_mapping()))
    return 1 if result.failed else 0


def _leaderboard_data(deployment: Deployment, chosen: argparse.Namespace) -> Path:
    """Return the deployment's data folder, or that of a sample dataset of the chosen size."""
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import ensure_sample

    options = {"n_train_rows": chosen.train_rows, "n_valid_rows": chosen.valid_rows}
    options["seed"] = chosen.seed
    given = {name: value for name, value in options.items() if value is not None}
    if deployment.data_dir is None:
        changes = {"n_valid_rows": 40_000, **given}
        config = SampleConfig.scaled(7.5 if chosen.scale is None else chosen.scale, **changes)
        return ensure_sample(config, deployment.storage_dir / "sample", _log)
    if given or chosen.scale is not None:
        raise SettingsError(
            "--scale, --train-rows, --valid-rows and --seed are of the sample dataset, but "
            f"MMCTR_DATA_DIR is {str(deployment.data_dir)!r}; leave them out, or unset it"
        )
    return deployment.data_dir


def _encoded_world(config: "SampleConfig") -> "EncodedWorld":
    """Generate a sample dataset where it is not there yet, and encode what is new in it."""
    from mmctr_pipeline.comparison.encoded import encode_world
    from mmctr_pipeline.sample.write import ensure_sample

    deployment = Deployment.from_environment()
    folder = ensure_sample(config, deployment.storage_dir / "sample", _log)
    return encode_world(folder, deployment.preset or "sample", deployment, _log)


def _prune(chosen: argparse.Namespace) -> int:
    from mmctr_pipeline.encoders.store.prune import prune

    storage = Deployment.from_environment().storage_dir
    folder = storage / "vectors"
    reports = prune(folder, chosen.unused_days, dry_run=chosen.dry_run, log=_log)
    _prune_checkpoints(storage, chosen)
    if not reports:
        print(f"no vectors are remembered in {folder}")
        return 0
    drop = "would drop" if chosen.dry_run else "dropped"
    for report in reports:
        if report.in_use:
            print(f"{report.encoder}: in use by a run, left alone")
        else:
            print(
                f"{report.encoder}: kept {report.n_kept:,} vectors "
                f"({report.kept_bytes / 1e6:,.1f} MB), {drop} {report.n_dropped:,} "
                f"({report.dropped_bytes / 1e6:,.1f} MB) and {report.n_left_behind:,} "
                "files left behind"
            )
    n_kept, kept_bytes, n_dropped, dropped_bytes = (
        sum(getattr(report, name) for report in reports)
        for name in ("n_kept", "kept_bytes", "n_dropped", "dropped_bytes")
    )
    print(
        f"total: kept {n_kept:,} vectors ({kept_bytes / 1e6:,.1f} MB), "
        f"{drop} {n_dropped:,} ({dropped_bytes / 1e6:,.1f} MB)"
    )
    return 0


def _prune_checkpoints(storage: Path, chosen: argparse.Namespace) -> None:
    from mmctr_pipeline.training.checkpoint import Checkpoints, abandoned

    for folder in abandoned(storage, chosen.unused_days):
        print(f"{folder.name}: {'would drop' if chosen.dry_run else 'dropped'} its checkpoint")
        if not chosen.dry_run:
            Checkpoints(folder).remove()


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

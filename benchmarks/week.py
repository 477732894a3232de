"""Nights of retraining on a drifting sample dataset by day, some with faults, through `make run`.

    python -m benchmarks.week [--full | --days N] [--rows N] [--keep FOLDER]

The first run trains from scratch on a window of 28 days. Then comes one day each night, with 1 %
new items and 3 % new rows; good nights train on from the champion. In bad nights the new day is
corrupt, its labels are reversed, the day is only half written, or the run is killed in the middle
and started again. After the night its data are repaired, as an upstream team would do. By default
there are three nights: good, corrupt, good; `--full` is a week with each fault once, `--days 28`
four such weeks.

At the end each promoted model and the one it replaced score the rows of the next day, and the first
champion scores those of the last day: `frozen_loss` is how much worse it is than the last champion.
`ours` is the median time of a good night, `peer` that of the first run, `ratio` is peer / ours.
The exit status is 1 if a night did not end as it should (`faults`).
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from benchmarks.harness import final_line, report
from mmctr_pipeline import metrics, pipeline
from mmctr_pipeline.data.config import DataConfig
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.recorded_vectors import recorded_vectors
from mmctr_pipeline.registry.champion import Champion
from mmctr_pipeline.registry.config import PromotionConfig
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import model_path
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.days import generate_days
from mmctr_pipeline.training.device import resolve_device

THREE_NIGHTS = ("good", "corrupt", "good")
BAD_DATA = ("corrupt", "reversed labels", "half written")
WEEK = ("good", "corrupt", "good", "killed", "reversed labels", "half written", "good")
_MIN_FROZEN_LOSS = 0.01
PRESET = """
extends: sample
data: {min_valid_rows: 20000}
training:
  warm_start: champion
  batch_size: 128
  learning_rate: 2.0e-3
  weight_decay: 3.0
  multimodal_learning_rate: 6.0e-3
"""
"""Validation on 20,000 rows, which are three days of the default size.

A night trains on the rows of one day, once. With the larger batches of the preset, they are too few
steps, and good nights were rejected.
"""


@dataclasses.dataclass(frozen=True)
class Night:
    """Exit status and seconds of a night, and the champion before and after it."""

    kind: str
    day: str
    status: int
    seconds: float
    before: str | None
    after: str | None
    is_submission_new: bool
    reason: str

    @property
    def promoted(self) -> bool:
        """True if the champion changed."""
        return self.after != self.before


class Deployment:
    """A data folder to which each night adds a day, and a storage folder of `make run`."""

    def __init__(self, folder: Path, sample: SampleConfig) -> None:
        self.folder, self.sample = folder, sample
        self.data, self.storage = folder / "data", folder / "storage"
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            (home / "dagster.yaml").symlink_to(Path("dagster.yaml").resolve())
        (folder / "preset.yaml").write_text(PRESET)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("MMCTR_")
        }
        self.environment = inherited | {
            "DAGSTER_HOME": str(home),
            "MMCTR_DATA_DIR": str(self.data),
            "MMCTR_STORAGE_DIR": str(self.storage),
            "MMCTR_PRESET": str(folder / "preset.yaml"),
            # With two cores, steps in processes of their own cost more than they save.
            "MMCTR_EXECUTOR": "in_process",
        }

    def add_days(self, n_days: int) -> list[str]:
        """Write the days of the data up to this number after the window; return all days."""
        sample = dataclasses.replace(self.sample, days=n_days)
        return [day["day"] for day in generate_days(sample, self.data)["days"]]

    def champion(self) -> str | None:
        """Return the version of the champion."""
        champion = Champion.read(self.storage)
        return champion.version if champion else None

    def start(self, day: str) -> "subprocess.Popen[str]":
        """Start the run of a day."""
        return subprocess.Popen(
            [sys.executable, "-m", "mmctr_pipeline.defs.run", "--day", day],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def night(self, kind: str, day: str) -> Night:
        """Run a night and return what it did; its data are as the last step left them."""
        before, submission = self.champion(), self._submission()
        start = time.perf_counter()
        if kind == "killed":
            self._kill_in_training(day)
        process = self.start(day)
        output, _ = process.communicate()
        seconds = time.perf_counter() - start
        (self.folder / f"{day}-{kind.replace(' ', '-')}.log").write_text(output)
        return Night(
            kind=kind,
            day=day,
            status=process.returncode,
            seconds=seconds,
            before=before,
            after=self.champion(),
            is_submission_new=self._submission() != submission,
            reason=self._reason(output, process.returncode),
        )

    def _kill_in_training(self, day: str) -> None:
        process = self.start(day)
        assert process.stdout is not None
        for line in process.stdout:
            if line.rstrip().endswith("parameters"):  # logged when training begins
                break
        assert process.poll() is None, "the run ended before it could be killed in training"
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def _submission(self) -> bytes:
        path = self.storage / "submission.csv"
        return path.read_bytes() if path.is_file() else b""

    def _reason(self, output: str, status: int) -> str:
        """Return the verdict of the contest, or the first error of a failed run."""
        if status == 0:
            return json.loads((self.storage / "contest.json").read_text())["headline"]
        lines = [line.strip() for line in output.splitlines()]
        lines = [line for line in lines if not line.endswith("the same as above")]
        wanted = [line for line in lines if re.search("error: |error  | failed: ", line)]
        return (wanted or lines[-1:])[0]


def spoiled(kind: str, partition: Path) -> None:
    """Spoil the day in the folder `partition` as the kind of night demands."""
    parts = sorted(partition.glob("*.parquet"))
    if kind == "corrupt":
        content = parts[0].read_bytes()
        parts[0].write_bytes(content[: len(content) // 2])
    elif kind == "reversed labels":
        for part in parts:
            table = pq.read_table(part, partitioning=None)
            place = table.schema.get_field_index("label")
            label = table.column("label")
            reversed_labels = pa.array(1 - label.to_numpy(), label.type)
            pq.write_table(table.set_column(place, "label", reversed_labels), part)
    elif kind == "half written":
        (partition / "_SUCCESS").unlink()
        parts[-1].unlink()


def nights(deployment: Deployment, kinds: tuple[str, ...]) -> Iterator[Night]:
    """Run the first training, then one night of each kind."""
    yield deployment.night("first", deployment.add_days(0)[-1])
    for number, kind in enumerate(kinds, start=1):
        day = deployment.add_days(number)[-1]
        partition = deployment.data / "interactions" / f"day={day}"
        kept = deployment.folder / "kept"
        shutil.copytree(partition, kept)
        spoiled(kind, partition)
        yield deployment.night(kind, day)
        shutil.rmtree(partition)
        kept.rename(partition)


def scores_of_day(
    deployment: Deployment, day: str, versions: list[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the labels of a day's rows, and their scores by each version."""
    device, layout = resolve_device("cpu"), find_data(deployment.data)
    dataset = pipeline.load_dataset(layout, DataConfig(day=day, min_valid_rows=1))
    scores = []
    for version in versions:
        model = ModelFile.load(model_path(deployment.storage, version))
        places = [deployment.storage / name for name in ("vectors", "", "transforms")]
        vectors = recorded_vectors(model, layout, dataset.items, *places, device)
        scores.append(pipeline.score(model, dataset, dataset.valid, vectors, device))
    assert dataset.valid.label is not None
    return dataset.valid.label, scores


def judged(deployment: Deployment, found: list[Night], next_days: list[str]) -> dict[str, Any]:
    """Compare each promoted model with the one it replaced on the next day's rows."""
    worse = []
    for night, next_day in zip(found, next_days, strict=True):
        if night.promoted and night.before and night.after:
            label, (new, old) = scores_of_day(deployment, next_day, [night.after, night.before])
            worse.append(metrics.auc(label, old) - metrics.auc(label, new))
    first, last = found[0].after, found[-1].after
    assert first is not None
    assert last is not None
    label, (frozen, newest) = scores_of_day(deployment, next_days[-1], [first, last])
    return {
        "largest_loss_by_promotion": max(worse, default=0.0),
        "frozen_loss": metrics.auc(label, newest) - metrics.auc(label, frozen),
    }


def faults(found: list[Night], verdict: dict[str, Any]) -> list[str]:
    """Return what a week of nights must not show; `verdict` is as `judged` returns it."""
    margin, wrong = PromotionConfig().margin, []
    if verdict["largest_loss_by_promotion"] > margin:
        loss = verdict["largest_loss_by_promotion"]
        wrong.append(f"a promoted model loses {loss:.4f} AUC on the next day, above {margin}")
    good = [night for night in found if night.kind == "good"]
    if sum(night.promoted for night in good) < len(good) / 2:
        wrong.append("fewer than half of the good nights promote")
    for night in found:
        name = f"{night.day} ({night.kind})"
        if night.kind in BAD_DATA and (night.status == 0 or night.is_submission_new):
            wrong.append(f"{name} shipped bad data")
        if night.kind not in BAD_DATA and night.status != 0:
            wrong.append(f"{name} failed: {night.reason}")
    frozen_loss = verdict["frozen_loss"]
    if len(found) > len(WEEK) and frozen_loss < _MIN_FROZEN_LOSS:
        wrong.append(f"the data hardly drift: the first champion loses {frozen_loss:.4f}")
    return wrong


def main() -> int:
    """Run the nights, print what each did, and return 1 if one did not end as it should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="a week with each fault once")
    parser.add_argument("--days", type=int, help="this many nights, weeks one after another")
    parser.add_argument("--rows", type=int, default=220_000, help="train rows of the first window")
    parser.add_argument("--keep", type=Path, help="folder for data, storage and logs")
    chosen = parser.parse_args()
    kinds = WEEK if chosen.full or chosen.days else THREE_NIGHTS
    if chosen.days:
        kinds = (kinds * (chosen.days // len(kinds) + 1))[: chosen.days]
    sample = SampleConfig(n_train_rows=chosen.rows, days=0)
    with tempfile.TemporaryDirectory() as temporary:
        deployment = Deployment(chosen.keep or Path(temporary), sample)
        found = []
        for night in nights(deployment, kinds):
            found.append(night)
            print(f"{night.day} {night.kind}: {night.seconds:.0f} s, {night.reason}", flush=True)
        days = deployment.add_days(len(kinds) + 1)
        verdict = judged(deployment, found, days[-len(found) :])
    good = [night for night in found if night.kind == "good"]
    bad = [night for night in found if night.kind in BAD_DATA]
    columns = ("day", "kind", "status", "seconds", "promoted", "is_submission_new")
    rows = [[getattr(night, name) for name in columns] for night in found]
    print(tabulate(rows, headers=columns, floatfmt=".0f"))
    median = statistics.median(night.seconds for night in good)
    final_line(
        name="week",
        ours=median,
        peer=found[0].seconds,
        ratio=found[0].seconds / median,
        unit="s",
        good_nights=len(good),
        promoted=sum(night.promoted for night in good),
        bad_data_shipped=sum(night.is_submission_new or night.status == 0 for night in bad),
        killed_nights=[night.status for night in found if night.kind == "killed"],
        margin=PromotionConfig().margin,
        **verdict,
    )
    return report(faults(found, verdict))


if __name__ == "__main__":
    sys.exit(main())

"""The folder in which the benchmark `soak` runs the pipeline, and the artefacts it compares."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

RUN = [sys.executable, "-m", "mmctr_pipeline.defs.run"]
PRESET = """
extends: sample
encoders: {text: {source: open_clip, model: tiny-clip}}
training: {max_epochs: 2, patience: 2, batch_size: 256}
checks: {beat_baselines: false, max_unreadable_images: 0.2}
"""
END_SECONDS = 15.0
"""Time in which all processes of a disturbed run must end."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Digests of the artefacts of the earlier and the undisturbed run.

    `seconds`, `asset_seconds` (by asset) and `sizes` (of the artefacts, ascending) are those of the
    undisturbed run.
    """

    earlier: dict[str, str]
    undisturbed: dict[str, str]
    seconds: float
    asset_seconds: dict[str, float]
    sizes: list[int]

    def lost(self, found: dict[str, str]) -> list[str]:
        """Return the earlier artefacts that changed, unless they equal the undisturbed run's."""
        return [
            name
            for name, digest in self.earlier.items()
            if found.get(name) not in (digest, self.undisturbed.get(name))
        ]

    def differing(self, found: dict[str, str]) -> list[str]:
        """Return the artefacts that differ from those of the undisturbed run."""
        names = sorted(self.undisturbed.keys() | found.keys())
        return [
            name
            for name in names
            # Folders of versions are named by their time, and two records name versions;
            # latest_model.pt is the latest model, best_model.pt the champion.
            if not name.startswith(("models/", "champion.json", "contest.json"))
            and found.get(name) != self.undisturbed.get(name)
        ]


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with two datasets, the results of an earlier run, and the run in progress.

    `executor` is that of the runs that nothing disturbs.
    """

    folder: Path
    executor: str

    @property
    def storage(self) -> Path:
        """The storage folder of the run in progress."""
        return self.folder / "work" / "storage"

    @property
    def _home(self) -> Path:
        return self.folder / "work" / "home"

    def reference(self, scale: float) -> Reference:
        """Return the runs to compare with; the first call runs the pipeline twice for them."""
        path = self.folder / "reference.json"
        if not path.is_file():
            path.write_text(json.dumps(dataclasses.asdict(self._prepare(scale))), encoding="utf-8")
        return Reference(**json.loads(path.read_text(encoding="utf-8")))

    def _prepare(self, scale: float) -> Reference:
        from mmctr_pipeline.sample.config import SampleConfig
        from mmctr_pipeline.sample.write import generate_sample

        shutil.rmtree(self.folder, ignore_errors=True)
        self._home.mkdir(parents=True)
        (self._home / "dagster.yaml").symlink_to(Path("dagster.yaml").resolve())
        (self.folder / "preset.yaml").write_text(PRESET, encoding="utf-8")
        for data, seed in (("earlier_data", 7), ("data", 8)):
            generate_sample(SampleConfig.scaled(scale, seed=seed), self.folder / data)
        print("two undisturbed runs first, to compare with", file=sys.stderr, flush=True)
        failure = self.finish("earlier_data")
        earlier = digests(self.storage)
        shutil.copytree(self.folder / "work", self.folder / "earlier", symlinks=True)
        start = time.perf_counter()
        failure = failure or self.finish()
        seconds = time.perf_counter() - start
        if failure:
            raise RuntimeError(f"a run failed although nothing disturbed it:\n{failure}")
        summary = json.loads((self.storage / "run_summary.json").read_text(encoding="utf-8"))
        sizes = sorted(path.stat().st_size for path in artefacts(self.storage).values())
        return Reference(earlier, digests(self.storage), seconds, summary["seconds"], sizes)

    def restore(self) -> None:
        """Return to the artefacts and the run history of the earlier run."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        shutil.copytree(self.folder / "earlier", self.folder / "work", symlinks=True)
        self._log.write_text("", encoding="utf-8")

    def start(
        self,
        command: list[str],
        data: str = "data",
        executor: str | None = None,
        before: Callable[[], None] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command.

        Parameters
        ----------
        command
            The command.
        data
            Name of the dataset.
        executor
            Executor of the pipeline, by default that of the undisturbed runs.
        before
            A function to call in the new process before it runs the command.
        """
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("MMCTR_")
        }
        variables = {
            "DAGSTER_HOME": str(self._home),
            "MMCTR_DATA_DIR": str(self.folder / data),
            "MMCTR_STORAGE_DIR": str(self.storage),
            "MMCTR_PRESET": str(self.folder / "preset.yaml"),
            "MMCTR_DEVICE": "cpu",
            "MMCTR_EXECUTOR": executor or self.executor,
            # With more threads, the last digit of a sum may vary.
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=inherited | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=before,
            )

    def finish(self, data: str = "data") -> str | None:
        """Run the pipeline to its end; return the end of its output if it fails."""
        return self.output()[-4000:] if self.start(RUN, data).wait() else None

    def output(self) -> str:
        """Return the output of all commands since `restore`."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def _log(self) -> Path:
        return self.folder / "work" / "log.txt"

    def left_behind(self) -> list[str]:
        """Return the commands of processes that have not ended in time, and end them."""
        deadline = time.monotonic() + END_SECONDS
        while (alive := list(self._processes())) and time.monotonic() < deadline:
            time.sleep(0.2)
        commands = []
        for process in alive:
            try:
                commands.append(" ".join(process.cmdline())[:100])
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return commands

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.environ().get("DAGSTER_HOME") == str(self._home):
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def artefacts(storage: Path) -> dict[str, Path]:
    """Return the files of all artefacts by their path in the storage folder."""
    patterns = ["*.parquet", "*.pt", "submission.csv", "prediction.zip"]
    patterns += ["train_dataset/*.parquet", "transforms/*.pt", "models/*/model.pt"]
    return {
        str(path.relative_to(storage)): path
        for pattern in patterns
        for path in sorted(storage.glob(pattern))
    }


def digests(storage: Path) -> dict[str, str]:
    """Return a digest of each artefact: of its values, without times and counts of the run.

    A damaged artefact has its error message instead.
    """
    from mmctr_pipeline.files.errors import DamagedFileError

    found = {}
    for name, path in artefacts(storage).items():
        try:
            found[name] = _digest(path)
        except DamagedFileError as error:
            found[name] = str(error)
    return found


def _digest(path: Path) -> str:
    from mmctr_pipeline.files.parquet import read_parquet
    from mmctr_pipeline.registry.model_file import ModelFile

    if path.suffix == ".parquet":
        table = read_parquet(path).replace_schema_metadata(None).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return hashlib.sha256(sink.getvalue()).hexdigest()
    if path.name not in ("best_model.pt", "latest_model.pt"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    model = ModelFile.load(path)
    digest = hashlib.sha256(f"{model.run_key} {model.valid_scores}".encode())
    for name, tensor in model.state_dict.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def read_results(path: Path) -> dict[int, dict[str, Any]]:
    """Return the results of earlier points by their number."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {result["number"]: result for result in map(json.loads, lines)}

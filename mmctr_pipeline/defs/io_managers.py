"""IO managers: they write each artefact atomically, and read it for the assets that need it."""

import functools
import re
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.defs.retries import retrying
from mmctr_pipeline.files import checksum
from mmctr_pipeline.files.atomic import atomic_folder, atomic_write
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.files.parquet import open_parquet, read_parquet, write_parquet


class StorageIOManager(dg.ConfigurableIOManager):
    """Stores an asset in the storage folder; a failed write leaves the earlier artefact intact.

    After a transient error of the disk, Dagster tries the step again.

    `location` is the path of the asset's file or folder, relative to the storage folder. If
    `publish_url` is set, a written artefact is also published there, and the step fails if that
    fails.
    """

    storage_dir: str
    publish_url: str | None = None
    location: ClassVar[str] = "{asset}"

    @abstractmethod
    def write(self, obj: Any, path: Path) -> None:
        """Write `obj` atomically."""

    @abstractmethod
    def read(self, path: Path, kind: Any) -> Any:
        """Read an artefact as `kind`, the type by which the reading asset annotates it."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write an artefact, publish it if `publish_url` is set, and show where it is."""
        path = self._path(context.asset_key)
        with retrying():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write(obj, path)
        metadata: dict[str, Any] = {
            name: dg.MetadataValue.path(str(shown)) for name, shown in self.paths(path).items()
        }
        if self.publish_url is not None:
            name = context.asset_key.to_user_string()
            metadata["published"] = dg.MetadataValue.url(self._publish(name, self.publish_url))
        self.finish(obj, path)
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read an artefact.

        Raises `FileNotFoundError` or `DamagedFileError`, naming the asset to materialise.
        """
        path, name = self._path(context.asset_key), context.asset_key.to_user_string()
        command = f"dagster asset materialize --select {name} -m mmctr_pipeline.definitions"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: materialise {name} first ({command})")
        try:
            with retrying():
                return self.read(path, context.dagster_type.typing_type)
        except (DamagedFileError, FileNotFoundError) as error:
            raise DamagedFileError(f"{error}; materialise {name} again ({command})") from error

    def paths(self, path: Path) -> dict[str, Path]:
        """Return the paths to show for an artefact written to `path`."""
        return {"path": path}

    def finish(self, obj: Any, path: Path) -> None:
        """Tidy up after `obj` was written and published; by default nothing."""

    def _publish(self, name: str, url: str) -> str:
        """Publish an artefact and return the address of its record."""
        from mmctr_pipeline.publishing.publish import publish
        from mmctr_pipeline.publishing.record import record_key
        from mmctr_pipeline.publishing.store import ObjectStore

        publish(Path(self.storage_dir), ObjectStore(url), name)
        return f"{url}/{record_key(name)}"

    def _path(self, asset: dg.AssetKey) -> Path:
        return Path(self.storage_dir) / self.location.format(asset=asset.to_user_string())


class ParquetIOManager(StorageIOManager):
    """Tables as one parquet file: vector tables, polars (eager and lazy), pandas and Arrow."""

    location = "{asset}.parquet"

    def write(self, obj: Any, path: Path) -> None:
        """Write a table; lazy frames are streamed."""
        write, _ = _parquet_formats().get(type(obj), (None, None))
        if write is None:
            raise TypeError(
                f"cannot store a {type(obj).__name__} as parquet; return a VectorTable, "
                "a polars or pandas frame, or an Arrow table"
            )
        with atomic_write(path) as temporary:
            write(obj, temporary)

    def read(self, path: Path, kind: Any) -> Any:
        """Read as the annotated type, or as a polars frame if there is no annotation."""
        import polars as pl

        formats = _parquet_formats()
        return formats.get(kind, formats[pl.DataFrame])[1](path)


@functools.cache
def _parquet_formats() -> dict[type, tuple[Callable[[Any, Path], Any], Callable[[Path], Any]]]:
    """Return the functions that write and read each type of table."""
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    return {
        VectorTable: (VectorTable.write, VectorTable.read),
        pl.DataFrame: (
            lambda frame, path: write_parquet(frame.to_arrow(), path),
            lambda path: pl.from_arrow(read_parquet(path)),
        ),
        pl.LazyFrame: (_stream, _scan),
        pd.DataFrame: (
            lambda frame, path: write_parquet(
                pa.Table.from_pandas(frame, preserve_index=False), path
            ),
            lambda path: read_parquet(path).to_pandas(),
        ),
        pa.Table: (write_parquet, read_parquet),
    }


def _stream(frame: Any, path: Path) -> None:
    """Write a lazy polars frame without holding it in memory."""
    import polars as pl

    try:
        frame.sink_parquet(path, metadata={checksum.KEY: checksum.BLANK})
    except pl.exceptions.ComputeError as error:
        # The number of the operating system's error is only in the text of polars' error.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), str(error)) from error
        raise
    checksum.seal(path)


def _scan(path: Path) -> Any:
    """Verify a parquet file and return it as a lazy polars frame."""
    import polars as pl

    with open_parquet(path):
        return pl.scan_parquet(path)


class DatasetIOManager(StorageIOManager):
    """The train dataset as a folder of parquet files, replaced as a whole."""

    def write(self, obj: CtrDataset, path: Path) -> None:
        """Write every table of the dataset."""
        with atomic_folder(path) as folder:
            obj.write(folder)

    def read(self, path: Path, kind: Any) -> CtrDataset:
        """Read the whole dataset."""
        return CtrDataset.read(path)


class ModelIOManager(StorageIOManager):
    """Trained models, each in its own folder; `latest_model.pt` points to the latest."""

    location = "latest_model.pt"

    def write(self, obj: Any, path: Path) -> None:
        """Write a new version and point `latest_model.pt` to it."""
        from mmctr_pipeline.registry.versions import write_version

        write_version(path.parent, obj)

    def finish(self, obj: Any, path: Path) -> None:
        """Drop the run's checkpoint. Until here, a step that is tried again resumes from it."""
        from mmctr_pipeline.training.checkpoint import Checkpoints

        Checkpoints.for_run(path.parent, obj.run_key).remove()

    def read(self, path: Path, kind: Any) -> Any:
        """Read the latest model."""
        from mmctr_pipeline.registry.model_file import ModelFile

        return ModelFile.load(path)

    def paths(self, path: Path) -> dict[str, Path]:
        """Return the file of the version that the link points to."""
        return {"path": path.resolve()}


class ChampionIOManager(StorageIOManager):
    """The champion: its record `champion.json`, and `best_model.pt`, which points to its file."""

    location = "champion.json"

    def write(self, obj: Any, path: Path) -> None:
        """Write the record of a `Champion`, then change the link."""
        obj.write(path.parent)

    def read(self, path: Path, kind: Any) -> Any:
        """Read the champion's model file."""
        from mmctr_pipeline.registry.champion import Champion

        champion = Champion.read(path.parent)
        assert champion is not None  # `load_input` has found the file
        return champion.load(path.parent)

    def paths(self, path: Path) -> dict[str, Path]:
        """Return the record, and the model file that the link points to."""
        return {"path": path, "model": path.with_name("best_model.pt").resolve()}


class ReportIOManager(StorageIOManager):
    """Reports, each in the folder of its version; `latest_report.html` points to the latest."""

    location = "latest_report.html"

    def write(self, obj: Any, path: Path) -> None:
        """Write the page of a `ModelReport`."""
        from mmctr_pipeline.registry.versions import write_report

        write_report(path.parent, obj.version, obj.html)

    def read(self, path: Path, kind: Any) -> str:
        """Read the page."""
        return path.read_text(encoding="utf-8")

    def paths(self, path: Path) -> dict[str, Path]:
        """Return the page that the link points to."""
        return {"path": path.resolve()}


class SubmissionIOManager(StorageIOManager):
    """The submission: `submission.csv` and, for the competition, `prediction.zip` beside it."""

    location = "submission.csv"

    def write(self, obj: Any, path: Path) -> None:
        """Write both files from a pandas frame with columns `ID` and `Task1&2`."""
        import polars as pl

        from mmctr_pipeline.submission.files import write_submission

        write_submission(pl.from_pandas(obj), path, self.paths(path)["zip"])

    def read(self, path: Path, kind: Any) -> Any:
        """Read the CSV file as a pandas frame."""
        from mmctr_pipeline.submission.files import read_submission

        return read_submission(path).to_pandas()

    def paths(self, path: Path) -> dict[str, Path]:
        """Return both files."""
        return {"path": path, "zip": path.with_name("prediction.zip")}


def io_managers(storage_dir: str, publish_url: str | None = None) -> dict[str, StorageIOManager]:
    """Return the IO managers of a storage folder by resource key."""
    managers: dict[str, type[StorageIOManager]] = {
        "parquet_io": ParquetIOManager,
        "dataset_io": DatasetIOManager,
        "model_io": ModelIOManager,
        "champion_io": ChampionIOManager,
        "report_io": ReportIOManager,
        "submission_io": SubmissionIOManager,
    }
    return {
        key: manager(storage_dir=storage_dir, publish_url=publish_url)
        for key, manager in managers.items()
    }

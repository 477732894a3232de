"""How artefacts are kept, each written atomically: tables, dataset, models, submission."""

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dagster as dg
from pydantic import PrivateAttr
from upath import UPath

if TYPE_CHECKING:
    from mmctr_pipeline.data.dataset import CtrDataset
    from mmctr_pipeline.registry.model_file import ModelFile


class StorageIOManager(dg.ConfigurableIOManager, dg.UPathIOManager):
    """Keeps an asset under its name in the storage folder; a failed write leaves the old one."""

    storage_dir: str
    extension: ClassVar[str | None] = None  # type: ignore[misc]
    _base_path: UPath = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Fix the folder that artefacts go to."""
        self._base_path = UPath(self.storage_dir)

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Write an artefact."""
        self.write(obj, Path(str(path)))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read an artefact; raises `FileNotFoundError` naming the asset to materialise first."""
        local = self.location(Path(str(path)))
        if not local.exists():
            name = context.asset_key.to_user_string()
            raise FileNotFoundError(
                f"{local} does not exist: materialise {name} first "
                f"(dagster asset materialize --select {name} -m mmctr_pipeline.definitions)"
            )
        return self.read(local, context.dagster_type.typing_type)

    def location(self, path: Path) -> Path:
        """Return where an artefact is read from."""
        return path

    @abstractmethod
    def write(self, obj: Any, path: Path) -> None:
        """Write `obj` atomically."""

    @abstractmethod
    def read(self, path: Path, kind: Any) -> Any:
        """Read an artefact as `kind`, the annotation of the reader's argument."""


class ParquetIOManager(StorageIOManager):
    """Tables as one parquet file: vector tables, polars (eager and lazy), pandas and Arrow."""

    extension: ClassVar[str | None] = ".parquet"  # type: ignore[misc]

    def write(self, obj: Any, path: Path) -> None:
        """Write a table; lazy frames are streamed."""
        import pandas as pd
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq

        from mmctr_pipeline.data.vectors import VectorTable
        from mmctr_pipeline.files.atomic import atomic_write

        with atomic_write(path) as temporary:
            if isinstance(obj, VectorTable):
                pq.write_table(obj.to_arrow(), temporary)
            elif isinstance(obj, pl.LazyFrame):
                obj.sink_parquet(temporary)
            elif isinstance(obj, pl.DataFrame):
                obj.write_parquet(temporary)
            elif isinstance(obj, pd.DataFrame):
                obj.to_parquet(temporary, index=False)
            elif isinstance(obj, pa.Table):
                pq.write_table(obj, temporary)
            else:
                raise TypeError(
                    f"cannot keep a {type(obj).__name__} as parquet; return a VectorTable, "
                    "a polars or pandas frame, or an Arrow table"
                )

    def read(self, path: Path, kind: Any) -> Any:
        """Read as the annotated type; polars where there is no annotation."""
        import pandas as pd
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq

        from mmctr_pipeline.data.vectors import VectorTable

        readers = {
            VectorTable: VectorTable.read,
            pl.LazyFrame: pl.scan_parquet,
            pd.DataFrame: pd.read_parquet,
            pa.Table: pq.read_table,
        }
        return readers.get(kind, pl.read_parquet)(path)


class DatasetIOManager(StorageIOManager):
    """The train dataset as a folder of parquet files, swapped in whole."""

    def write(self, obj: "CtrDataset", path: Path) -> None:
        """Write every table of the dataset."""
        from mmctr_pipeline.files.atomic import atomic_folder

        with atomic_folder(path) as folder:
            obj.write(folder)

    def read(self, path: Path, kind: Any) -> "CtrDataset":
        """Read the whole dataset."""
        from mmctr_pipeline.data.dataset import CtrDataset

        return CtrDataset.read(path)


class ModelIOManager(StorageIOManager):
    """Trained models, each in a folder of its own; `best_model.pt` points to the latest."""

    def write(self, obj: "ModelFile", path: Path) -> None:
        """Write a new version, point `best_model.pt` to it, and drop the run's checkpoint."""
        from mmctr_pipeline.registry.versions import write_version
        from mmctr_pipeline.training.checkpoint import Checkpoints

        write_version(path.parent, obj)
        Checkpoints.of_run(path.parent, obj.run_key).remove()

    def location(self, path: Path) -> Path:
        """Return the latest model, whatever the asset is called."""
        return path.parent / "best_model.pt"

    def read(self, path: Path, kind: Any) -> "ModelFile":
        """Read the latest model."""
        from mmctr_pipeline.registry.model_file import ModelFile

        return ModelFile.load(path)

    def get_metadata(self, context: dg.OutputContext, obj: "ModelFile") -> dict[str, Any]:
        """Say where the new version lies."""
        from mmctr_pipeline.registry.versions import latest_model_path

        return {"path": dg.MetadataValue.path(str(latest_model_path(Path(self.storage_dir))))}


class SubmissionIOManager(StorageIOManager):
    """The submission: `submission.csv` and, for the competition, `prediction.zip` beside it."""

    def write(self, obj: Any, path: Path) -> None:
        """Write both files from a pandas frame with columns `ID` and `Task1&2`."""
        import polars as pl

        from mmctr_pipeline.submission.files import write_submission

        write_submission(
            pl.from_pandas(obj), path.parent / "submission.csv", path.parent / "prediction.zip"
        )

    def location(self, path: Path) -> Path:
        """Return the CSV file."""
        return path.parent / "submission.csv"

    def read(self, path: Path, kind: Any) -> Any:
        """Read the CSV file as a pandas frame."""
        from mmctr_pipeline.submission.files import read_submission

        return read_submission(path).to_pandas()

    def get_metadata(self, context: dg.OutputContext, obj: Any) -> dict[str, Any]:
        """Say where both files lie."""
        storage = Path(self.storage_dir)
        return {
            "path": dg.MetadataValue.path(str(storage / "submission.csv")),
            "zip": dg.MetadataValue.path(str(storage / "prediction.zip")),
        }

"""Training inputs of a row, written to a folder that the rows' processes read."""

import dataclasses
import functools
from pathlib import Path
from typing import Self

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.files.atomic import atomic_folder
from mmctr_pipeline.files.errors import DamagedFileError
from mmctr_pipeline.training.checkpoint import run_key


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """Everything that a CTR model is trained on; rows with equal inputs share one folder."""

    dataset: CtrDataset
    vectors: ItemVectors

    @functools.cached_property
    def key(self) -> str:
        """Hash of the contents."""
        contents = {name: table.content_hash() for name, table in self._tables.items()}
        return run_key(data=self.dataset.fingerprint, **contents)

    @property
    def _tables(self) -> dict[str, VectorTable]:
        return {name: table for name, table in vars(self.vectors).items() if table is not None}

    def write(self, root: Path) -> Path:
        """Write the inputs to the folder `root/<key>` unless it exists, and return the folder.

        Inputs that differ only in their vectors share the dataset through a link.
        """
        folder, dataset = root / self.key, root / run_key(data=self.dataset.fingerprint)
        if not dataset.is_dir():
            with atomic_folder(dataset) as temporary:
                self.dataset.write(temporary)
        if not folder.is_dir():
            with atomic_folder(folder) as temporary:
                (temporary / "dataset").symlink_to(Path("..") / dataset.name)
                for name, table in self._tables.items():
                    table.write(temporary / f"table_{name}.parquet")
        return folder

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read inputs written by `write`; raises `DamagedFileError` if a file is damaged."""
        paths = {path.stem.removeprefix("table_"): path for path in folder.glob("table_*.parquet")}
        try:
            tables = {name: VectorTable.read(path) for name, path in paths.items()}
            return cls(CtrDataset.read(folder / "dataset"), ItemVectors(**tables))
        except DamagedFileError as error:
            advice = f"remove {folder.parent}; the next run writes it again"
            raise DamagedFileError(f"{error}; {advice}") from error

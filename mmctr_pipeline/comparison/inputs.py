"""What models that are compared are trained on, in a folder that their processes share."""

import dataclasses
import functools
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.vectors import VectorTable
from mmctr_pipeline.files.atomic import atomic_folder
from mmctr_pipeline.metrics import auc
from mmctr_pipeline.sample.paths import SamplePaths
from mmctr_pipeline.training.checkpoint import run_key

_TABLES = ("vectors", "text", "image")


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """Everything that a CTR model is trained on; `vectors` are the fused ones."""

    dataset: CtrDataset
    vectors: VectorTable
    text: VectorTable
    image: VectorTable

    @property
    def modalities(self) -> dict[str, VectorTable]:
        """The vectors that some models read beside the fused ones."""
        return {"text": self.text, "image": self.image}

    @functools.cached_property
    def key(self) -> str:
        """A hash of the contents: equal for equal inputs alone."""
        return run_key(
            data=self.dataset.fingerprint,
            vectors=self.vectors.content_hash(),
            text=self.text.content_hash(),
            image=self.image.content_hash(),
        )

    def write(self, root: Path) -> Path:
        """Write to the folder `root/<key>`, unless it is there already, and return that."""
        folder = root / self.key
        if folder.is_dir():
            return folder
        with atomic_folder(folder) as temporary:
            self.dataset.write(temporary)
            for name in _TABLES:
                pq.write_table(getattr(self, name).to_arrow(), _table_path(temporary, name))
        return folder

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        tables = {name: VectorTable.read(_table_path(folder, name)) for name in _TABLES}
        return cls(CtrDataset.read(folder), **tables)


def _table_path(folder: Path, name: str) -> Path:
    return folder / f"table_{name}.parquet"


def best_possible_auc(world: Path, valid_rows: np.ndarray) -> float | None:
    """Return the AUC of a sample dataset's true probabilities on valid rows, a mask `(N,) bool`.

    None where the folder holds no sample dataset.
    """
    path = SamplePaths(world).truth
    if not path.is_file():
        return None
    truth = pq.read_table(path, filters=[("split", "=", "valid")]).sort_by("row")
    probability, label = (truth.column(name).to_numpy() for name in ("probability", "label"))
    return auc(label[valid_rows], probability[valid_rows])

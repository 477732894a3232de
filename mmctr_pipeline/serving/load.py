"""Find a trained model and what it scores with in a storage folder."""

import dataclasses
from pathlib import Path

import torch

from mmctr_pipeline.data.dataset import CtrDataset
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.vectors import ItemVectors, VectorTable
from mmctr_pipeline.recorded_vectors import vectors_for
from mmctr_pipeline.registry.champion import Champion, require_version
from mmctr_pipeline.registry.model_file import ModelFile, has_identity
from mmctr_pipeline.registry.versions import model_path
from mmctr_pipeline.sample.config import SamplePaths
from mmctr_pipeline.serving.errors import ScorerError


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A model, its storage folder, and the catalogue and vectors that it scores with."""

    model: ModelFile
    storage: Path
    dataset: CtrDataset
    vectors: ItemVectors


def find_inputs(path: Path, device: torch.device, data: Path | None = None) -> Inputs:
    """Read a model and its inputs; raises and parameters as in `Scorer.load`."""
    file, storage = _locate(path)
    model = ModelFile.load(file)
    dataset = CtrDataset.read(_existing(storage, "train_dataset"))
    fused, text, image = (
        VectorTable.read(_existing(storage, f"{name}.parquet"))
        for name in ("fused_pca", "text_embeddings", "image_embeddings")
    )
    vectors = ItemVectors(fused, text, image)
    if not has_identity(model, vectors):
        if data is None:
            samples = [
                str(folder)
                for folder in storage.glob("sample/*")
                if SamplePaths(folder).summary.is_file()
            ]
            hint = f"; the sample dataset is in {', '.join(samples)}" if samples else ""
            raise ScorerError(
                f"{storage} no longer has the vectors that {file} was trained on. Fix: "
                "name the data folder (MMCTR_DATA_DIR, or Scorer.load(..., data=...)), so that "
                f"they can be looked up{hint}"
            )
        vectors = vectors_for(model, vectors, find_data(data), dataset.items, storage, device)
    return Inputs(model, storage, dataset, vectors)


def _locate(path: Path) -> tuple[Path, Path]:
    """Return the model file that `path` names, and its storage folder."""
    real = path.resolve()
    if real.is_file():
        return real, real.parents[2]
    if (real / "model.pt").is_file():
        return real / "model.pt", real.parents[1]
    champion = Champion.read(real) if real.is_dir() else None
    if champion is None:
        raise ScorerError(
            f"{path} has no champion. Fix: run the pipeline first (make run), or name the folder "
            "of a version, such as storage/models/<version> (mmctr models list)"
        )
    require_version(real, champion.version, champion.sha256)
    return model_path(real, champion.version), real


def _existing(storage: Path, name: str) -> Path:
    path = storage / name
    if not path.exists():
        raise ScorerError(f"{path} does not exist. Fix: materialise {name.split('.')[0]} first")
    return path

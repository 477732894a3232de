"""A custom fusion: random directions of titles and covers of equal variance."""

import dataclasses

import numpy as np

from mmctr_pipeline.fusion.config import FusionConfig
from mmctr_pipeline.settings import setting


@dataclasses.dataclass(frozen=True)
class RandomProjectionSettings(FusionConfig):
    seed: int = setting(0, "seed of the directions", ge=0)


class RandomProjection:
    Config = RandomProjectionSettings

    def __init__(self, config: RandomProjectionSettings) -> None:
        self._dim, self._seed = config.dim, config.seed

    def fit(self, vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(self._seed)
        return {
            name: generator.normal(size=(vectors_ND.shape[1], self._dim))
            / np.linalg.norm(vectors_ND)
            for name, vectors_ND in vectors.items()
        }

    def fuse(self, vectors: dict[str, np.ndarray], fitted: dict[str, np.ndarray]) -> np.ndarray:
        return sum(vectors[name] @ fitted[name] for name in fitted)

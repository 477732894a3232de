"""A custom text encoder: hashed counts of short runs of characters."""

import dataclasses

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer

from mmctr_pipeline.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class CharacterNgramsSettings(Settings):
    n_features: int = setting(512, "columns of the vectors", ge=2, le=1 << 16)
    longest: int = setting(4, "most characters of a run", ge=2, le=10)


class CharacterNgrams:
    Config = CharacterNgramsSettings

    def __init__(self, config: CharacterNgramsSettings, device: torch.device) -> None:
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, config.longest), n_features=config.n_features
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._vectorizer.transform(texts).toarray()

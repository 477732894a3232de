"""Encoders of the user's own: call them, check what they return, and identify them."""

import hashlib
import json
from collections.abc import Sized
from typing import Any

import numpy as np
import torch

from mmctr_pipeline.encoders.config import ImageEncoderConfig, TextEncoderConfig
from mmctr_pipeline.encoders.vector_tables import EncoderInfo
from mmctr_pipeline.plugins import plugin_class, plugin_code
from mmctr_pipeline.settings import SettingsError

# Settings that do not affect the vector of a text or an image.
_NOT_HASHED = {
    *("source", "template", "tag_names", "column", "batch_tokens", "batch_size", "compute"),
    "images_url",
}


class OwnEncoder:
    """An instance of a user's encoder; `info` identifies it.

    The class is called with its settings and the `torch.device`. Its method `encode` takes a list
    of texts, or images `(B, size, size, 3) uint8`, and returns `(B, D)` numbers, an array or a
    tensor; gradients are switched off. A text encoder may have a method `unknown`, which takes
    texts and returns which of them it knows nothing of, `(B,) bool`.

    Optional attributes of the instance: `size`, by default 224, and `version`, a string for
    whatever else the vectors depend on besides code and settings, such as a hash of weights.
    """

    def __init__(
        self, config: TextEncoderConfig | ImageEncoderConfig, device: torch.device | str
    ) -> None:
        """Import and build the encoder that `config.source` names; raises `SettingsError`."""
        encoder = plugin_class(config.source, "encoders")(config, torch.device(device))
        self._encoder, self.size = encoder, int(getattr(encoder, "size", 224))
        settings = {k: v for k, v in config.to_mapping().items() if k not in _NOT_HASHED}
        hashed = json.dumps([settings, self.size], sort_keys=True).encode()
        code = f"{plugin_code(config.source)}:{getattr(encoder, 'version', '')}".encode()
        self.info = EncoderInfo(
            kind="own",
            name=config.source,
            source="your own code",
            weights_hash=hashlib.sha256(code).hexdigest(),
            settings=hashlib.sha256(hashed).hexdigest()[:8],
            precision="float32",
            device=str(device),
        )

    def unknown(self, texts: list[str]) -> np.ndarray:
        """Return which texts the encoder knows nothing of, `(n,) bool`; by default none."""
        if not hasattr(self._encoder, "unknown"):
            return np.zeros(len(texts), dtype=bool)
        return np.asarray(self._encoder.unknown(texts), dtype=bool)

    def encode(self, contents: Sized) -> np.ndarray:
        """Return `(B, D) float32`; raises `SettingsError` unless the encoder returns such vectors.

        `contents` are texts or images.
        """
        with torch.inference_mode():
            found: Any = self._encoder.encode(contents)
        if isinstance(found, torch.Tensor):
            found = found.float().cpu()
        vectors = np.asarray(found, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(contents) or not vectors.shape[1]:
            raise SettingsError(
                f"{self.info.name}.encode returned an array of shape {vectors.shape} for "
                f"{len(contents)} contents. Fix: return one row of numbers for each"
            )
        if not np.isfinite(vectors).all():
            raise SettingsError(
                f"{self.info.name}.encode returned NaN or infinity. Fix: return finite numbers"
            )
        return vectors

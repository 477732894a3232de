"""Load located open_clip models, and identify them by their weights and settings."""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch

from mmctr_pipeline.encoders.image.pixels import PixelSpec
from mmctr_pipeline.encoders.sources import LocatedImageModel

# The tokens of this text tell tokenisers apart.
_PROBE = "Two DOGS, one cat's café: #fun 2026 \U0001f600 \u4f60\u597d"


@dataclasses.dataclass(frozen=True)
class LoadedClip:
    """An open_clip model in float32 and evaluation mode, with where it came from."""

    located: LocatedImageModel
    model: Any

    @property
    def pixels(self) -> PixelSpec:
        """The inference preprocessing of the weights."""
        return PixelSpec.from_open_clip(self.model.visual.preprocess_cfg)

    def tokenizer(self) -> Callable[..., torch.Tensor]:
        """Return the tokeniser of the text tower: texts to `(N, context_length) int64`."""
        return open_clip.get_tokenizer(self.located.architecture)

    def image_weights_hash(self) -> str:
        """Return the SHA-256 (hex) of the image tower's weights, independent of their file."""
        return _hash(self.model.visual.state_dict())

    def text_weights_hash(self) -> str:
        """Return the SHA-256 (hex) of all weights except the image tower's."""
        state = self.model.state_dict().items()
        return _hash({name: value for name, value in state if not name.startswith("visual.")})

    def image_settings_hash(self) -> str:
        """Return 8 hex digits of everything but the weights that image vectors depend on."""
        return self._settings_hash(self.model.visual.preprocess_cfg)

    def text_settings_hash(self) -> str:
        """Return 8 hex digits of everything but the weights that text vectors depend on."""
        return self._settings_hash(self.tokenizer()([_PROBE]).tolist())

    def _settings_hash(self, preprocessing: Any) -> str:
        # Only the definition, not the weights, tells activations and numbers of heads.
        settings = [preprocessing, self.located.quick_gelu, self._definition()]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def _definition(self) -> Any:
        architecture = self.located.architecture
        if not architecture.startswith("local-dir:"):
            return open_clip.get_model_config(architecture)
        path = Path(architecture.removeprefix("local-dir:")) / "open_clip_config.json"
        return json.loads(path.read_text(encoding="utf-8"))


def load_clip(located: LocatedImageModel, device: torch.device | str) -> LoadedClip:
    """Load a located model in float32, in evaluation mode."""
    with warnings.catch_warnings():
        # open_clip warns if the weights need another activation than the definition names;
        # force_quick_gelu sets the right one.
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        model, _ = open_clip.create_model_from_pretrained(
            located.architecture,
            pretrained=str(located.weights) if located.weights else None,
            precision="fp32",
            device=torch.device(device),
            force_quick_gelu=located.quick_gelu,
            **{f"image_{name}": value for name, value in located.preprocess.items()},
        )
    return LoadedClip(located, model.eval())


def _hash(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

"""Load located open_clip models, and identify them by their weights and settings."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import _find_checkpoint_in_dir
from safetensors.torch import save_file

from mmctr_pipeline.encoders.image.pixels import PixelSpec
from mmctr_pipeline.encoders.locate import LocatedImageModel
from mmctr_pipeline.encoders.model_files import ModelFilesError, is_torchscript, require_weights
from mmctr_pipeline.encoders.torchscript import read_tensors

# Different tokenisers give this text different tokens.
_PROBE = "Two DOGS, one cat's café: #fun 2026 \U0001f600 \u4f60\u597d"

# open_clip reads weights in these formats without pickle.
_NUMPY = (".npz", ".npy")
# Tensors of OpenAI's archives that are not weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}
# Longer error messages of open_clip are cut to this many characters.
_MAX_CHARACTERS = 400


@dataclasses.dataclass(frozen=True)
class LoadedClip:
    """An open_clip model in float32 and evaluation mode, and where it was found."""

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
        """Return 8 hex digits of a hash of all that image vectors depend on, except the weights."""
        return self._settings_hash(self.model.visual.preprocess_cfg)

    def text_settings_hash(self) -> str:
        """Return 8 hex digits of a hash of all that text vectors depend on, except the weights."""
        return self._settings_hash(self.tokenizer()([_PROBE]).tolist())

    def _settings_hash(self, preprocessing: Any) -> str:
        # The definition holds what the weights do not show, such as activation and heads.
        settings = [preprocessing, self.located.quick_gelu, self._definition()]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def _definition(self) -> Any:
        architecture = self.located.architecture
        if not architecture.startswith("local-dir:"):
            return open_clip.get_model_config(architecture)
        path = Path(architecture.removeprefix("local-dir:")) / "open_clip_config.json"
        return json.loads(path.read_text(encoding="utf-8"))


def load_clip(located: LocatedImageModel, device: torch.device | str) -> LoadedClip:
    """Load a located model in float32, in evaluation mode.

    Raises `ModelFilesError` if the weights cannot be read without running code from their file, or
    are not exactly those of the architecture.
    """
    checkpoint = located.weights or _weights_in(located.architecture)
    with warnings.catch_warnings(), _checked_weights(checkpoint) as weights:
        # open_clip warns if the weights need another activation than the definition names;
        # force_quick_gelu sets the right one.
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        try:
            model, _ = open_clip.create_model_from_pretrained(
                located.architecture,
                pretrained=str(weights) if located.weights else None,
                precision="fp32",
                device=torch.device(device),
                force_quick_gelu=located.quick_gelu,
                **{f"image_{name}": value for name, value in located.preprocess.items()},
            )
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            differences = " ".join(str(error).split())[:_MAX_CHARACTERS]
            raise ModelFilesError(
                f"{checkpoint} does not fit {located.architecture}: {differences} ... Fix: name "
                "the architecture that the weights belong to (in encoders.image.model or "
                "encoders.text.model), or copy the file again"
            ) from error
    return LoadedClip(located, model.eval())


def _weights_in(architecture: str) -> Path:
    """Return the file that open_clip chooses in the folder of `local-dir:FOLDER`."""
    path = Path(_find_checkpoint_in_dir(Path(architecture.removeprefix("local-dir:"))))
    if is_torchscript(path):
        raise ModelFilesError(
            f"{path} is a TorchScript archive. Fix: name it with its architecture, as "
            f"RN50/{path}, or use the same weights as .safetensors"
        )
    return path


@contextlib.contextmanager
def _checked_weights(checkpoint: Path) -> Iterator[Path]:
    """Yield a file that open_clip can read without running code from it.

    This is the checkpoint itself, or for a TorchScript archive a temporary copy of its weights.
    """
    if checkpoint.suffix in _NUMPY:
        yield checkpoint
    elif is_torchscript(checkpoint):
        tensors = read_tensors(checkpoint).items()
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "weights.safetensors"
            weights = {
                name: tensor for name, tensor in tensors if name.split(".")[-1] not in _NOT_WEIGHTS
            }
            save_file(weights, copy)
            yield copy
    else:
        require_weights(checkpoint)
        yield checkpoint


def _hash(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

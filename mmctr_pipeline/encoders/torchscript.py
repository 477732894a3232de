"""Read the tensors of a TorchScript archive without running its code.

OpenAI publishes CLIP in this format (`RN50.pt`): a zip file with a pickled tree of modules, the
tensors' bytes, and program code. `torch.jit.load` runs parts of that code. Here an unpickler that
can build only modules, tensors and plain values reads the tree and the tensors.
"""

import collections
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mmctr_pipeline.encoders.model_files import ModelFilesError

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of an archive by their names in the model's state dict.

    Raises `ModelFilesError` if the archive is damaged or holds other objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            name = next(name for name in names if name.split("/")[1:] == ["data.pkl"])
            with archive.open(name) as file:
                tree = _Unpickler(file, archive, name.removesuffix("data.pkl")).load()
            tensors = dict(_named_tensors(tree, ""))
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        StopIteration,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise ModelFilesError(
            f"{path} is a TorchScript archive that cannot be read ({error!r}). Fix: copy it again, "
            "or use the same weights as .safetensors"
        ) from error
    return tensors


class _Module:
    """The attributes of a module in the archive, by name. Its class is ignored."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Builds modules, tensors and plain values; refuses every other name."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _BUILDERS:
            return _BUILDERS[module, name]
        raise pickle.UnpicklingError(f"it holds {module}.{name} besides tensors")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, *_ = pid
        content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    return storage.as_strided(size, stride, offset).clone().contiguous()


def _first_argument(value: Any, *_: Any) -> Any:
    return value


_BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.jit._pickle", "restore_type_tag"): _first_argument,
    ("torch.jit._pickle", "build_intlist"): _first_argument,
    ("torch.jit._pickle", "build_doublelist"): _first_argument,
    ("torch.jit._pickle", "build_boollist"): _first_argument,
    ("torch.jit._pickle", "build_tensorlist"): _first_argument,
}


def _named_tensors(module: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module) and value.attributes is not None:
            yield from _named_tensors(value, f"{prefix}{name}.")

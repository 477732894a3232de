"""Tensors and plain values in `.pt` files: written with a checksum, verified when read.

`torch.save` writes a zip archive with a CRC-32 of each record, which `torch.load` does not compare.
So the checksum of the whole file (`checksum`) is added as the archive's comment.
"""

import errno
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pickle import PickleError, UnpicklingError
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mmctr_pipeline.files import checksum
from mmctr_pipeline.files.errors import DamagedFileError

_UNREADABLE = (
    *(PickleError, zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, LookupError),
    *(TypeError, AttributeError, AssertionError, ImportError, OverflowError),
)
"""Errors of `torch.load` for a file that is damaged, malicious, or of another kind."""

_BLOCKED_NAME = re.compile(r"GLOBAL (\S+)")


def save_tensors(path: Path, content: Any) -> None:
    """Write tensors and plain values with a checksum. Equal contents give equal bytes.

    The write is not atomic; wrap it in `atomic_write`.
    """
    comment = f"{checksum.KEY}: {checksum.BLANK}".encode()
    with path.open("w+b") as file:
        # Given a path, torch would also store the name of the file, which is temporary.
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # After a failed write, torch raises a second error when it ends the file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        # A zip archive ends with the length of its comment, and the comment.
        file.seek(-2, os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little") + comment)
    checksum.seal(path)


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file that `save_tensors` wrote, and put its tensors on `device`.

    Files of earlier versions, which have no checksum of the whole file, are read too. Only tensors
    and plain values are read; no code is run. Raises `DamagedFileError` if the file does not match
    its checksums or is of another kind, and `FileNotFoundError` if there is none.
    """
    with path.open("rb") as file:
        is_sealed = checksum.verify(file, path) is not None
        try:
            _check_archive(file, path, is_sealed)
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
        except DamagedFileError:
            raise
        except _UNREADABLE as error:
            # No permission, or too many open files, does not mean that the file is damaged.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EIO):
                raise
            raise DamagedFileError(
                f"{path} ({path.stat().st_size:,} bytes) cannot be read: it is damaged, not a file "
                "of tensors, or holds objects other than tensors and plain values "
                f"({_reason(error)})"
            ) from error


def blocked_name(error: UnpicklingError) -> str | None:
    """Return the name of the function or class that `torch.load` refused to import, if known."""
    found = _BLOCKED_NAME.search(str(error))
    return found[1] if found else None


def _reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        # Torch's own text is not shown, as it advises loading without the safeguard.
        name = blocked_name(error)
        return f"it names {name}" if name else "its pickle is damaged"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _check_archive(file: io.BufferedReader, path: Path, is_sealed: bool) -> None:
    """Raise an error unless a file is an archive as `torch.save` writes it."""
    with zipfile.ZipFile(file) as archive:
        if any(record.compress_type for record in archive.infolist()):
            raise DamagedFileError(f"{path} has compressed records, which torch.save never writes")
        if is_sealed:
            return
        file.seek(-2, os.SEEK_END)
        if file.read() != bytes(2):  # torch.save writes no comment
            raise DamagedFileError(f"{path} is damaged: its end is incomplete or changed")
        if damaged := archive.testzip():
            raise DamagedFileError(f"{path} is damaged: the checksum of {damaged} does not match")


_FACTORIES = {
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.arange),
    *(torch.rand, torch.randn, torch.eye, torch.linspace),
}
# A module may take twice the memory of its weights and this much more, such as for index tensors.
_SPARE_BYTES = 2**26


class _AllocationLimit(TorchFunctionMode):
    """Refuses to create tensors of more than `n_bytes` in total, before they take memory."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self._n_bytes = self._left = n_bytes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _FACTORIES:
            try:
                self._left -= func(*args, **{**(kwargs or {}), "device": "meta"}).nbytes
            except (RuntimeError, TypeError) as error:  # too large for an integer
                reason = str(error).splitlines()[0]
                raise DamagedFileError(f"the sizes in the file are impossible: {reason}") from error
            if self._left < 0:
                raise DamagedFileError(
                    f"the sizes in the file need more than {self._n_bytes:,} bytes, the most that "
                    "its tensors justify"
                )
        return func(*args, **(kwargs or {}))


def allocation_limit(tensors: Iterable[torch.Tensor]) -> TorchFunctionMode:
    """Return a context in which to build a module that will hold the weights `tensors`.

    Sizes in a crafted file could ask for any amount of memory before they are compared with the
    weights. In this context, creating tensors that need much more memory than the weights raises
    `DamagedFileError`.
    """
    dense = [tensor for tensor in tensors if tensor.layout == torch.strided and not tensor.is_meta]
    storages = [tensor.untyped_storage() for tensor in dense]
    n_bytes = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    return _AllocationLimit(2 * n_bytes + _SPARE_BYTES)

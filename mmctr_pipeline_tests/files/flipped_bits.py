"""Flips bits of a file and compares what is read with what was written."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mmctr_pipeline.files.errors import DamagedFileError


def plain(value: Any) -> Any:
    """Return a plain form of `value`; two such forms are equal only if they agree bit by bit."""
    if isinstance(value, torch.Tensor):
        return plain(value.numpy())
    if isinstance(value, np.ndarray):
        return (
            str(value.dtype),
            value.shape,
            value.tolist() if value.dtype == object else None,
            (b"" if value.dtype == object else value.tobytes()),
        )
    if isinstance(value, pa.Table):
        return {name: value.column(name).to_pylist() for name in value.column_names}
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return value.to_pylist()
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if hasattr(value, "values") and hasattr(value, "offsets"):
        return plain(value.values), plain(value.offsets)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(element) for element in value] if isinstance(value, list | tuple) else value


def flips(path: Path, positions: Iterable[tuple[int, int]]) -> Iterator[None]:
    """For each (byte, bit) in `positions`, flip this bit of the file, yield, and restore it."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for position, bit in positions:
            byte = content[position]
            file.seek(position)
            file.write(bytes([byte ^ (1 << bit)]))
            yield
            file.seek(position)
            file.write(bytes([byte]))


def all_bits(path: Path) -> list[tuple[int, int]]:
    return [(position, bit) for position in range(path.stat().st_size) for bit in range(8)]


def some_bits(path: Path, n: int, seed: int = 0) -> list[tuple[int, int]]:
    """Draw `n` bits of a file: half anywhere, half in its last 2,000 bytes, where metadata is."""
    generator, size = np.random.default_rng(seed), path.stat().st_size
    anywhere = generator.integers(0, size, n // 2)
    late = size - 1 - generator.integers(0, min(size, 2_000), n - n // 2)
    bits = generator.integers(0, 8, n)
    return list(zip([*anywhere.tolist(), *late.tolist()], bits.tolist(), strict=True))


def count_unnoticed(
    path: Path, read: Callable[[], Any], positions: Iterable[tuple[int, int]]
) -> int:
    """Return how many flips raised no `DamagedFileError`; these must not change what is read."""
    expected = plain(read())
    n_unnoticed = 0
    for _ in flips(path, positions):
        try:
            content = plain(read())
        except DamagedFileError as error:
            message = str(error)
        else:
            message = path.name
            n_unnoticed += 1
            assert content == expected
        assert path.name in message or path.parent.name in message
    assert plain(read()) == expected
    return n_unnoticed

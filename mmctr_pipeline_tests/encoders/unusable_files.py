"""Contents of model files that must be refused."""

import os
from pathlib import Path
from typing import Any

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
"""A Git LFS pointer."""


class Payload:
    """Creates the folder `mark` when it is unpickled by a loader that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)

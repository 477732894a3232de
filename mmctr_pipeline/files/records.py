"""Small records as JSON files, written atomically and verified when read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmctr_pipeline.files import checksum
from mmctr_pipeline.files.atomic import atomic_write
from mmctr_pipeline.files.errors import DamagedFileError


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum as its last entry."""
    text = json.dumps({**content, checksum.KEY: checksum.BLANK}, indent=2) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        checksum.seal(temporary)


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object and leave out its checksum.

    Raises `DamagedFileError` if the file is damaged or holds no JSON object.
    """
    with path.open("rb") as file:
        checksum.verify(file, path)
        try:
            content = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is damaged: it is not a JSON object")
    content.pop(checksum.KEY, None)
    return content

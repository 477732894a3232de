"""A row's process belongs to whoever started it."""

import subprocess
import sys
from pathlib import Path

from mmctr_pipeline.files.locks import locked


def test_it_ends_with_its_parent_even_where_it_has_nothing_to_say(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmctr_pipeline.comparison.row", str(tmp_path)]
    # The row is in work elsewhere: it waits, and would wait for ever.
    with locked(tmp_path / ".lock"):
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 1

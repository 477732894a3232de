"""A row's process lives no longer than its parent."""

import subprocess
import sys
from pathlib import Path

from mmctr_pipeline.files.locks import locked


def test_it_ends_with_its_parent_even_while_it_waits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmctr_pipeline.comparison.row", str(tmp_path)]
    # Another process works on the row, so that this one would wait for ever.
    with locked(tmp_path / ".lock"):
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=900) == 1

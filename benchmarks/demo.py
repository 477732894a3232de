"""Run the whole demo, and measure its time, the memory of all its processes, and its AUC.

    python -m benchmarks.demo

Runs the pipeline on the sample dataset in a new storage folder, like `make demo` after the
installation, and samples the proportional set size (PSS) of its processes. No other tool covers all
these steps, so there is no peer: `peer` and `ratio` are null.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.harness import final_line


def main() -> None:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        (home / "dagster.yaml").symlink_to(Path("dagster.yaml").resolve())
        storage = Path(scratch) / "storage"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("MMCTR_")
        }
        environment = inherited | {
            "DAGSTER_HOME": str(home),
            "MMCTR_STORAGE_DIR": str(storage),
            "MMCTR_PRESET": "sample",
        }
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "mmctr_pipeline.defs.run"], env=environment
        )
        peak_mb = 0.0
        while process.poll() is None:
            peak_mb = max(peak_mb, _summed_pss_mb(process.pid))
            time.sleep(0.5)
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            sys.exit(process.returncode)
        summary = json.loads((storage / "run_summary.json").read_text(encoding="utf-8"))
    best = summary["best_possible_auc"]
    final_line(
        name="demo",
        ours=seconds,
        peer=None,
        ratio=None,
        unit="s",
        peak_pss_mb=peak_mb,
        valid_auc=summary["valid_auc"],
        best_possible_auc=best,
        share_of_the_way=(summary["valid_auc"] - 0.5) / (best - 0.5),
        step_seconds=summary["seconds"],
    )


def _summed_pss_mb(pid: int) -> float:
    """Return the memory of a process and its descendants; shared pages count once."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


if __name__ == "__main__":
    main()

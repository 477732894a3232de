"""The training benchmark runs on a bare machine, counts right, and refuses a straw man."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.train import check_is_a_peer, operations_per_row

REPOSITORY = Path(__file__).parents[2]

BARE_RUN = """
import sys

absent = {"dagster", "polars", "pandas", "sklearn", "scipy", "yaml", "PIL", "torchvision"}

class Without:
    # Finds nothing of these names, as where they are not installed: torch and pyarrow ask for some.
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        found = name.partition(".")[0] not in absent
        return self.finder.find_spec(name, path, target) if found else None

sys.meta_path[:] = map(Without, sys.meta_path)

import json
from argparse import Namespace
from pathlib import Path
from benchmarks.train import ours, plain
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

folder = Path(sys.argv[1])
sizes = {"n_train_rows": 4500, "n_valid_rows": 200, "n_test_rows": 400}
config = SampleConfig(n_items=150, n_users=600, images=False, **sizes)
generate_sample(config, folder, lambda line: None)
chosen = Namespace(side="plain", data=folder, rows=4300, device="cpu", seconds=60)
print(json.dumps([plain(chosen), ours("float32")(chosen)]))
"""


def test_both_sides_run_with_numpy_torch_and_pyarrow_alone(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BARE_RUN, tmp_path],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    plain, ours = json.loads(result.stdout)
    # Of the 4,300 rows that are left of the world's 4,500, two steps of 2,048 are warming up.
    assert (plain["rows"], ours["rows"]) == (4300 - 2 * 2048, 4300)
    assert min(side["rows_per_second"] for side in (plain, ours)) > 0
    assert 100 < ours["peak_mb"] < 10_000


def test_operations_are_six_per_weight_that_a_row_meets_and_position() -> None:
    weights = 2 * 64**3 + (448 * 512 + 512 * 256 + 256 * 128 + 128) + 128 * 64
    of_a_position = 64 * 32 + 32 + 64  # the last is the weighted sum
    assert operations_per_row() == 6 * (weights + 8 * of_a_position)
    assert operations_per_row() == pytest.approx(5.7e6, rel=0.01)


def test_a_plain_form_below_eight_percent_of_the_ceiling_ends_the_benchmark() -> None:
    check_is_a_peer(801, 10_000)
    with pytest.raises(SystemExit, match=r"7\.9% of the float32 ceiling"):
        check_is_a_peer(790, 10_000)

"""The training benchmark needs three packages, counts operations, and refuses a slow peer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.train_bounds import check_is_a_peer, operations_per_row, plain_bound
from mmctr_pipeline_tests.hidden_packages import hide_packages

REPOSITORY = Path(__file__).parents[2]

OPTIONAL_PACKAGES = (
    *("dagster", "polars", "pandas", "sklearn", "scipy", "yaml", "PIL", "torchvision"),
)
RUN_EACH_SIDE = """
import json
import sys
from argparse import Namespace
from pathlib import Path
from benchmarks.train import dense_update, ours, plain
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

folder = Path(sys.argv[1])
sizes = {"n_train_rows": 4500, "n_valid_rows": 200, "n_test_rows": 400}
config = SampleConfig(n_items=150, n_users=600, images=False, **sizes)
generate_sample(config, folder)
arguments = Namespace(side="plain", data=folder, rows=4300, device="cpu", seconds=60)
print(json.dumps([plain(arguments), ours("float32")(arguments), dense_update(arguments)]))
"""


@pytest.mark.slow
def test_both_sides_run_with_numpy_torch_and_pyarrow_alone(tmp_path: Path) -> None:
    program = hide_packages(*OPTIONAL_PACKAGES) + RUN_EACH_SIDE
    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert result.returncode == 0, result.stderr
    plain, ours, dense_update = json.loads(result.stdout)
    # The first 4,300 of 4,500 rows are used; two steps of 2,048 are the warm-up.
    assert (plain["rows"], ours["rows"]) == (4300 - 2 * 2048, 4300)
    assert min(side["rows_per_second"] for side in (plain, ours)) > 0
    assert 100 < ours["peak_mb"] < 10_000
    assert dense_update["seconds"] > 0


def test_each_use_of_a_weight_counts_six_operations() -> None:
    # Two operations forward, four backward. The terms: bilinear forms, tower, vector projection.
    weights = 2 * 64**3 + (448 * 512 + 512 * 256 + 256 * 128 + 128) + 128 * 64
    per_position = 64 * 32 + 32 + 64  # attention; the last term is the weighted sum
    assert operations_per_row() == 6 * (weights + 8 * per_position)
    assert operations_per_row() == pytest.approx(5.7e6, rel=0.01)


def test_the_bound_of_the_plain_form_is_padded_products_plus_dense_update() -> None:
    n_padded = 100 - 8
    operations = operations_per_row() + 6 * n_padded * (64 * 32 + 32 + 64)
    products_alone = plain_bound(product_rate=1e11, update_seconds=0.0)
    assert products_alone == pytest.approx(1e11 / operations)
    # If products take no time, a batch takes as long as the update.
    assert plain_bound(product_rate=1e30, update_seconds=0.5) == pytest.approx(2 * 2048)
    both = plain_bound(product_rate=1e11, update_seconds=0.5)
    assert 1 / both == pytest.approx(1 / products_alone + 0.5 / 2048)


def test_a_plain_form_below_a_fifth_of_its_bound_fails_the_benchmark() -> None:
    check_is_a_peer(2_010, 10_000)
    with pytest.raises(SystemExit, match=r"19\.9% of what its products and its dense update allow"):
        check_is_a_peer(1_990, 10_000)

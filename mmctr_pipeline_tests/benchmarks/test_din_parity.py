"""In float32 our engine and `torch.optim.Adam` with FuxiCTR's layers train the same DIN."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.din_parity import fuxictr, ours
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

pytestmark = [pytest.mark.bench, pytest.mark.slow]


def test_both_sides_give_the_same_scores_after_three_epochs(tmp_path: Path) -> None:
    pytest.importorskip("fuxictr", reason="needs the bench extra")
    sizes = {"n_train_rows": 2000, "n_valid_rows": 400, "n_test_rows": 4}
    config = SampleConfig(n_items=150, n_users=300, images=False, **sizes)
    generate_sample(config, tmp_path)
    for name, side in (("fuxictr", fuxictr), ("ours_float32", ours("float32"))):
        side(Namespace(side=name, data=tmp_path, seeds=1, full=False, device="cpu"))
    theirs, mine = (np.load(tmp_path / f"{name}_0.npy") for name in ("fuxictr", "ours_float32"))
    assert theirs.std() > 0.05
    # Float32 rounding, which twelve steps of Adam amplify to about 1e-4.
    np.testing.assert_allclose(mine, theirs, atol=1e-3, rtol=0)

"""Hardware bounds for the benchmark `train`: matrix products and the plain form's dense update."""

import sys
import time
from argparse import Namespace

from benchmarks.harness import product_rate
from mmctr_pipeline.environment import share_cores

LEAST_SHARE = 0.2
"""Share of its bound that the plain form must reach to be a fair peer.

The plain form reaches about a tenth without the allocator setting, and more than a quarter with it.
"""

MEAN_HISTORY = 8


def operations_per_row(vector_dim: int = 128, n_positions: int = MEAN_HISTORY) -> float:
    """Return the multiplications and additions needed to train on one row.

    The backward pass costs twice the forward pass. A row needs the two bilinear forms, the tower,
    the attention over `n_positions` history items (by default the mean length without padding), and
    the multimodal transform.
    """
    bilinear = 2 * 64 * 64 * 64
    tower = 448 * 512 + 512 * 256 + 256 * 128 + 128
    attention = n_positions * (64 * 32 + 32 + 64)
    return 3 * 2 * (bilinear + tower + attention + vector_dim * 64)


def rates(chosen: Namespace) -> dict[str, float]:
    """Measure matrix products in float32 and in the dtype that `auto` selects."""
    from mmctr_pipeline.training.device import resolve_device

    device = str(resolve_device(chosen.device))
    return {precision: product_rate(precision, device) for precision in ("float32", "auto")}


def dense_update(chosen: Namespace) -> dict[str, float]:
    """Measure the part of the plain form's step that touches every row of its tables.

    It clears the gradient, clips it, and updates by AdamW; memory bandwidth is the limit. Returns
    the best of three trials after a warm-up.
    """
    share_cores()
    import torch

    from benchmarks.samples import read_sample
    from mmctr_pipeline.models.config import ImprovedMmctrConfig
    from mmctr_pipeline.training.batch_source import feature_spec
    from mmctr_pipeline.training.device import resolve_device

    device = resolve_device(chosen.device)
    spec = feature_spec(*read_sample(chosen.data, chosen.rows), ImprovedMmctrConfig())
    table = torch.nn.Parameter(torch.zeros(spec.n_users + spec.n_items, 64, device=device))
    optimizer = torch.optim.AdamW([table], lr=2e-3, weight_decay=1e-4)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        optimizer.zero_grad()
        table.grad = torch.zeros_like(table)
        torch.nn.utils.clip_grad_norm_([table], 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds[1:])}


def plain_bound(product_rate: float, update_seconds: float) -> float:
    """Return the rows per second if a step took only its products and its dense update."""
    from benchmarks.plain_recipe import BATCH_SIZE, HISTORY_LENGTH

    operations = BATCH_SIZE * operations_per_row(n_positions=HISTORY_LENGTH)
    return BATCH_SIZE / (operations / product_rate + update_seconds)


def check_is_a_peer(rows_per_second: float, bound: float) -> None:
    """Exit with a message if the plain form is too far below its own bound."""
    share = rows_per_second / bound
    if share < LEAST_SHARE:
        sys.exit(
            f"the plain form with the allocator setting reaches {share:.1%} of what its products "
            f"and its dense update allow ({rows_per_second:,.0f} of {bound:,.0f} rows/s), less "
            f"than {LEAST_SHARE:.0%}: too slow for a comparison; check whether something slows it "
            "down, such as other work on the machine"
        )

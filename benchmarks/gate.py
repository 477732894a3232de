"""The gate of the champion on simulated challengers with known true differences.

    python -m benchmarks.gate [--challengers N] [--rows N ...] [--auc A] [--correlation R]

Each challenger has scores of its own on valid rows of its own: scores are normal within each class,
those of champion and challenger correlate, and the distance of the classes follows from the true
AUC. Half of the challengers are worse than the champion by more than the margin, by up to 0.02; the
others have the differences of the table. All are judged by `registry.comparison.compare_models`
with the default settings, also on eight slices of random rows, on which their true difference is
the same. There is no peer: the last line gives the worst share over the numbers of rows of harmful
challengers that are promoted (at most 0.05) and of challengers better by 0.005 (at least 0.80).
"""

import argparse
import collections
import sys

import numpy as np
from scipy.stats import norm
from tabulate import tabulate

from benchmarks.harness import final_line, report
from mmctr_pipeline.registry.comparison import compare_models
from mmctr_pipeline.registry.config import PromotionConfig

BETTER = 0.005
HARMFUL_BOUND, BETTER_BOUND = 0.05, 0.8
"""Largest share of harmful challengers, and least share of those better by 0.005, to promote."""
LEVELS = (-0.006, -0.003, 0.0, 0.003, BETTER, 0.008, 0.012)
_WORST = -0.02
_N_SLICES = 8


def simulated(
    generator: np.random.Generator, n_rows: int, auc: float, difference: float, correlation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, scores of the challenger and scores of the champion, each `(n_rows,)`."""
    label = (generator.random(n_rows) < 0.5).astype(np.int8)
    champion_noise, own_noise = generator.standard_normal((2, n_rows))
    noise = correlation * champion_noise + np.sqrt(1 - correlation**2) * own_noise
    champion, challenger = (np.sqrt(2) * norm.ppf(area) for area in (auc, auc + difference))
    return label, challenger * label + noise, champion * label + champion_noise


def promoted(
    generator: np.random.Generator, n_rows: int, auc: float, difference: float, correlation: float
) -> bool:
    """Judge one challenger."""
    rows = simulated(generator, n_rows, auc, difference, correlation)
    slice_N = generator.integers(0, _N_SLICES, n_rows)
    slices = {f"slice {number}": slice_N == number for number in range(_N_SLICES)}
    return not compare_models(*rows, None, slices, PromotionConfig()).problems


def faults(harmful_promoted: float, better_promoted: float) -> list[str]:
    """Return which bounds the gate misses; the arguments are shares of challengers."""
    found = []
    if harmful_promoted > HARMFUL_BOUND:
        found.append(f"harmful_promoted is {harmful_promoted:.3f}, above {HARMFUL_BOUND}")
    if better_promoted < BETTER_BOUND:
        found.append(f"better_promoted is {better_promoted:.3f}, below {BETTER_BOUND}")
    return found


def main() -> int:
    """Judge the challengers, print the table, and return 1 if the gate misses a bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--challengers", type=int, default=1000, help="for each number of rows")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--auc", type=float, default=0.8, help="true AUC of the champion")
    parser.add_argument(
        "--correlation", type=float, default=0.95, help="of the scores within each class"
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    margin = PromotionConfig().margin
    harmful: dict[int, float] = {}
    by_level: dict[tuple[float, int], float] = {}
    for n_rows in chosen.rows:
        generator = np.random.default_rng(chosen.seed)
        n_harmful = chosen.challengers // 2
        drawn = generator.uniform(_WORST, -margin, n_harmful)
        judged = [
            promoted(generator, n_rows, chosen.auc, each, chosen.correlation) for each in drawn
        ]
        harmful[n_rows] = float(np.mean(judged))
        verdicts = collections.defaultdict(list)
        for number in range(chosen.challengers - n_harmful):
            level = LEVELS[number % len(LEVELS)]
            verdicts[level].append(
                promoted(generator, n_rows, chosen.auc, level, chosen.correlation)
            )
        by_level |= {(level, n_rows): float(np.mean(found)) for level, found in verdicts.items()}
    table = [
        [f"{level:+.3f}", *(f"{by_level[level, n_rows]:.0%}" for n_rows in chosen.rows)]
        for level in LEVELS
    ]
    drawn_row = [f"{_WORST:+.3f} to {-margin:+.3f}", *(f"{harmful[n]:.1%}" for n in chosen.rows)]
    headers = ["true difference", *(f"promoted, {n_rows:,} rows" for n_rows in chosen.rows)]
    print(tabulate([drawn_row, *table], headers, disable_numparse=True))
    better_promoted = min(by_level[BETTER, n_rows] for n_rows in chosen.rows)
    final_line(
        name="gate",
        ours=1 - max(harmful.values()),
        peer=None,
        ratio=None,
        unit="share of harmful challengers rejected",
        harmful_promoted=max(harmful.values()),
        better_promoted=better_promoted,
        challengers=chosen.challengers,
        rows=chosen.rows,
    )
    return report(faults(max(harmful.values()), better_promoted))


if __name__ == "__main__":
    sys.exit(main())

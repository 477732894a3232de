"""The table: what it says follows from scores and labels alone."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import paired_difference
from mmctr_pipeline.comparison.table import Leaderboard, Outcome, TableRow

N_ROWS = 600
LABEL = np.random.default_rng(0).integers(0, 2, N_ROWS)


def scores_of(strength: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=N_ROWS)
    return 1 / (1 + np.exp(-(strength * (LABEL - 0.5) + noise)))


def outcome(
    seed: int, scores: np.ndarray, ended_by: str = "patience", cold: float | None = 0.5
) -> Outcome:
    result = RowResult(
        n_parameters=1234,
        selection_auc=0.7,
        rows_per_second=1000.0 * seed,
        seconds=10.0 * seed,
        peak_mb=100.0 * seed,
        epochs=float(seed),
        best_epoch=1.0,
        ended_by=ended_by,
        code="abc",
        history={},
        evaluation={
            "by_popularity": [{"auc": None if cold is None else {"auc": cold}}],
            "by_user": {"auc": 0.6},
            "calibration": {"error": 0.01},
        },
    )
    return Outcome(seed, f"key{seed}", result, scores)


def row(name: str, *outcomes: Outcome) -> TableRow:
    return TableRow.of(name, "din", outcomes, LABEL)


def plain_auc(scores: np.ndarray) -> float:
    ahead = scores[LABEL == 1][:, None] - scores[LABEL == 0][None, :]
    return float(((ahead > 0) + 0.5 * (ahead == 0)).mean())


def test_one_seed_is_measured_on_the_saved_scores() -> None:
    strong, weak = scores_of(2.0, 1), scores_of(0.5, 2)
    board = Leaderboard.of([row("weak", outcome(1, weak)), row("strong", outcome(1, strong))],
                           LABEL, "inputs")  # fmt: skip
    first, second = board.rows
    assert (first.name, first.behind) == ("weak", None)
    assert first.auc == pytest.approx(plain_auc(weak), abs=1e-12)
    interval = metrics.auc_interval(LABEL, strong)
    assert (second.low, second.high) == (interval.low, interval.high)
    of_clicks = np.log(np.where(LABEL == 1, strong, 1 - strong))
    assert second.log_loss == pytest.approx(-of_clicks.mean(), abs=1e-12)
    compared = metrics.compare_auc(LABEL, weak, strong)
    assert second.behind is not None
    assert second.behind.difference == pytest.approx(plain_auc(weak) - plain_auc(strong))
    assert (second.behind.low, second.behind.high) == (compared.low, compared.high)
    assert second.behind.verdict is None
    by_auc = Leaderboard.of(board.rows, LABEL, "inputs", by_auc=True)
    assert [each.name for each in by_auc.rows] == ["strong", "weak"]


def test_several_seeds_are_averaged_and_paired_by_seed() -> None:
    first = [scores_of(2.0, seed) for seed in (1, 2, 3)]
    second = [scores_of(1.0, seed) for seed in (4, 5, 6)]
    rows = [
        row(name, *(outcome(seed, s) for seed, s in enumerate(of_seeds, start=1)))
        for name, of_seeds in (("first", first), ("second", second))
    ]
    board = Leaderboard.of(rows, LABEL, "inputs")
    areas = [plain_auc(scores) for scores in first]
    assert board.rows[0].auc == pytest.approx(np.mean(areas))
    variance = np.mean([metrics.auc_interval(LABEL, s).standard_error ** 2 for s in first])
    of_seeds = scipy.stats.t.ppf(0.975, 2) * np.std(areas, ddof=1) / math.sqrt(3)
    half_width = math.sqrt(of_seeds**2 + scipy.stats.norm.ppf(0.975) ** 2 * variance)
    assert board.rows[0].low == pytest.approx(np.mean(areas) - half_width)
    paired, behind = paired_difference(LABEL, first, second), board.rows[1].behind
    assert behind is not None
    assert (behind.difference, behind.low, behind.high) == (
        *(paired.difference, paired.low, paired.high),
    )
    assert behind.verdict == "too few rows"
    record = json.loads(json.dumps(board.to_mapping()))["rows"][0]
    assert record["rows_per_second"] == 2000
    assert record["seconds"] == 20
    assert record["peak_mb"] == 300
    assert record["epochs"] == [1, 2, 3]
    assert record["seeds"] == [1, 2, 3]
    assert record["auc_by_seed"] == pytest.approx(areas)


@pytest.mark.parametrize(
    ("cold", "mean"), [((0.5, 0.7), 0.6), ((None, None), None), ((0.5, None), 0.5)]
)
def test_cold_items_have_an_auc_where_there_are_any(
    cold: tuple[float | None, float | None], mean: float | None
) -> None:
    outcomes = (outcome(n, scores_of(1, n), cold=each) for n, each in enumerate(cold, start=1))
    board = Leaderboard.of([row("row", *outcomes)], LABEL, "inputs")
    record = board.to_mapping()["rows"][0]
    assert record["auc_cold"] == (None if mean is None else pytest.approx(mean))
    assert record["auc_by_user"] == pytest.approx(0.6)
    assert record["calibration_error"] == pytest.approx(0.01)
    cell = board.markdown()[2].split("|")[5].strip()
    assert cell == ("" if mean is None else f"{mean:.4f}")


def test_a_row_that_failed_stands_last_with_its_reason() -> None:
    failed = row("failed", outcome(1, scores_of(1, 1)), Outcome(2, "key2", failure="diverged"))
    done = row("done", outcome(1, scores_of(1, 1)), outcome(2, scores_of(1, 2), "max_minutes"))
    board = Leaderboard.of([failed, done], LABEL, "inputs")
    assert [each.name for each in board.rows] == ["done", "failed"]
    assert board.failed == ["failed"]
    assert board.rows[0].behind is None
    lines = board.markdown()
    assert len({line.count("|") for line in lines}) == 1
    assert "failed: seed 2: diverged" in lines[3]
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[0] == "done"
    assert cells[2].startswith(f"{board.rows[0].auc:.4f} [")
    assert cells[4] == "0.5000"
    assert cells[6:] == ["1,234", "1,500", "15", "200", "1, 2", "1, 1", "early stopping, minutes"]
    assert board.to_mapping()["rows"][1]["failure"] == "seed 2: diverged"
    assert Leaderboard.of([failed], LABEL, "inputs").failed == ["failed"]

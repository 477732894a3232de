"""The table: its numbers follow from scores and labels only."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.entries import Entry
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import paired_difference
from mmctr_pipeline.comparison.table import COLUMNS, Leaderboard, Outcome, TableRow
from mmctr_pipeline.models.config import DinConfig
from mmctr_pipeline.presets.preset import Preset

N_ROWS = 600
LABEL = np.random.default_rng(0).integers(0, 2, N_ROWS)


def draw_scores(strength: float, seed: int) -> np.ndarray:
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
        history={},
        evaluation={
            "by_popularity": [{"auc": None if cold is None else {"auc": cold}}],
            "by_user": {"auc": 0.6},
            "calibration": {"error": 0.01},
        },
    )
    return Outcome(seed, f"key{seed}", "inputs", result, scores)


def row(name: str, *outcomes: Outcome) -> TableRow:
    return TableRow.measure(Entry(name, Preset(model=DinConfig())), outcomes, LABEL)


def cells(board: Leaderboard, number: int) -> dict[str, str]:
    line = board.markdown()[2 + number].split("|")[1:-1]
    return {c.name: cell.strip() for c, cell in zip(COLUMNS, line, strict=True)}


def plain_auc(scores: np.ndarray) -> float:
    ahead = scores[LABEL == 1][:, None] - scores[LABEL == 0][None, :]
    return float(((ahead > 0) + 0.5 * (ahead == 0)).mean())


def test_one_seed_is_measured_on_the_saved_scores() -> None:
    strong, weak = draw_scores(2.0, 1), draw_scores(0.5, 2)
    rows = [row("weak", outcome(1, weak)), row("strong", outcome(1, strong))]
    board = Leaderboard.compare(rows, LABEL, pairs=[("strong", "weak"), ("strong", "absent")])
    first, second = board.rows
    assert (first.name, first.behind) == ("weak", None)
    assert first.measures["auc"] == pytest.approx(plain_auc(weak), abs=1e-12)
    interval = metrics.auc_interval(LABEL, strong)
    assert (second.measures["low"], second.measures["high"]) == (interval.low, interval.high)
    log_likelihood = np.log(np.where(LABEL == 1, strong, 1 - strong))
    assert second.measures["log_loss"] == pytest.approx(-log_likelihood.mean(), abs=1e-12)
    compared = metrics.compare_auc(LABEL, weak, strong)
    assert second.behind is not None
    assert second.behind.difference == pytest.approx(plain_auc(weak) - plain_auc(strong))
    assert (second.behind.low, second.behind.high) == (compared.low, compared.high)
    assert (second.behind.verdict, second.behind.p_value) == (None, compared.p_value)
    assert list(board.pairs) == ["strong - weak"]
    assert board.pairs["strong - weak"].difference == -second.behind.difference
    (note,) = [line for line in board.markdown() if line.startswith("strong - weak: +")]
    assert note.endswith(f", p = {compared.p_value:.2g}")
    by_auc = Leaderboard.compare(board.rows, LABEL, by_auc=True)
    assert [each.name for each in by_auc.rows] == ["strong", "weak"]


def test_several_seeds_are_averaged_and_paired_by_seed() -> None:
    first = [draw_scores(2.0, seed) for seed in (1, 2, 3)]
    second = [draw_scores(1.0, seed) for seed in (4, 5, 6)]
    rows = [
        row(name, *(outcome(seed, s) for seed, s in enumerate(scores, start=1)))
        for name, scores in (("first", first), ("second", second))
    ]
    board = Leaderboard.compare(rows, LABEL)
    areas = [plain_auc(scores) for scores in first]
    measures = board.rows[0].measures
    assert measures["auc"] == pytest.approx(np.mean(areas))
    variance = np.mean([metrics.auc_interval(LABEL, s).standard_error ** 2 for s in first])
    over_seeds = scipy.stats.t.ppf(0.975, 2) * np.std(areas, ddof=1) / math.sqrt(3)
    half_width = math.sqrt(over_seeds**2 + scipy.stats.norm.ppf(0.975) ** 2 * variance)
    assert measures["low"] == pytest.approx(np.mean(areas) - half_width)
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
def test_cold_items_have_an_auc_if_there_are_any(
    cold: tuple[float | None, float | None], mean: float | None
) -> None:
    outcomes = (outcome(n, draw_scores(1, n), cold=each) for n, each in enumerate(cold, start=1))
    board = Leaderboard.compare([row("row", *outcomes)], LABEL)
    record = board.to_mapping()["rows"][0]
    assert record["auc_cold"] == (None if mean is None else pytest.approx(mean))
    assert record["auc_by_user"] == pytest.approx(0.6)
    assert record["calibration_error"] == pytest.approx(0.01)
    assert cells(board, 0)["cold AUC"] == ("" if mean is None else f"{mean:.4f}")


def test_a_failed_row_is_last_and_its_reason_is_below_the_table() -> None:
    diverged = Outcome(2, "key2", "inputs", failure="diverged")
    failed = row("failed", outcome(1, draw_scores(1, 1)), diverged)
    done = row("done", outcome(1, draw_scores(1, 1)), outcome(2, draw_scores(1, 2), "max_minutes"))
    board = Leaderboard.compare([failed, done], LABEL, pairs=[("done", "failed")])
    assert [each.name for each in board.rows] == ["done", "failed"]
    assert board.failures == {"failed": "seed 2: diverged"}
    assert board.rows[0].behind is None
    assert board.pairs == {}
    *table, blank, reason = board.markdown()
    assert len({line.count("|") for line in table}) == 1
    assert (blank, reason) == ("", "failed failed: seed 2: diverged")
    assert list(cells(board, 1).values())[:4] == ["failed", "din", "failed", ""]
    written = cells(board, 0)
    measures = board.rows[0].measures
    assert written["row"] == "done"
    interval = f"{measures['auc']:.4f} [{measures['low']:.4f}, {measures['high']:.4f}]"
    assert written["AUC"] == interval
    assert written["cold AUC"] == "0.5000"
    assert list(written.values())[6:] == [
        *("1,234", "1,500", "15", "200", "1, 2", "1, 1", "early stopping, minutes"),
    ]
    assert board.to_mapping()["rows"][1]["failure"] == "seed 2: diverged"
    assert list(Leaderboard.compare([failed], LABEL).failures) == ["failed"]

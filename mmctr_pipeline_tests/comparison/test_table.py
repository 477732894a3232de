"""The table's AUCs and log-losses follow from scores and labels, not from the row's own report."""

import json
import math

import numpy as np
import pytest
import scipy.stats

from mmctr_pipeline import metrics
from mmctr_pipeline.comparison.row import RowResult
from mmctr_pipeline.comparison.statistics import paired_difference
from mmctr_pipeline.comparison.table import COLUMNS, Leaderboard
from mmctr_pipeline.comparison.table_row import Outcome, ReportingRows, TableRow

N_ROWS = 600
LABEL = np.random.default_rng(0).integers(0, 2, N_ROWS)
IS_COLD = np.arange(N_ROWS) % 5 == 0
REPORTING = ReportingRows(LABEL, IS_COLD)


def draw_scores(strength: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=N_ROWS)
    return 1 / (1 + np.exp(-(strength * (LABEL - 0.5) + noise)))


def outcome(seed: int, scores: np.ndarray, ended_by: str = "patience") -> Outcome:
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
        evaluation={"by_user": {"auc": 0.6}, "calibration": {"error": 0.01, "limit": 0.012}},
    )
    return Outcome(seed, f"key{seed}", "inputs", result, scores)


def row(name: str, *outcomes: Outcome, model: str = "din") -> TableRow:
    return TableRow.measure(name, model, outcomes, REPORTING)


def cells(board: Leaderboard, number: int) -> dict[str, str]:
    line = board.markdown()[2 + number].split("|")[1:-1]
    return {c.name: cell.strip() for c, cell in zip(COLUMNS, line, strict=True)}


def plain_auc(scores: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
    label, scores = LABEL[rows], scores[rows]
    ahead = scores[label == 1][:, None] - scores[label == 0][None, :]
    return float(((ahead > 0) + 0.5 * (ahead == 0)).mean())


def test_rows_of_one_seed_are_measured_and_compared_on_their_scores() -> None:
    strong, weak = draw_scores(2.0, 1), draw_scores(0.5, 2)
    rows = [row("weak", outcome(1, weak)), row("strong", outcome(1, strong))]
    board = Leaderboard.compare(rows, REPORTING, pairs=[("strong", "weak"), ("strong", "absent")])
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
    by_auc = Leaderboard.compare(board.rows, REPORTING, by_auc=True)
    assert [each.name for each in by_auc.rows] == ["strong", "weak"]


def test_several_seeds_are_averaged_and_paired_by_seed() -> None:
    first = [draw_scores(2.0, seed) for seed in (1, 2, 3)]
    second = [draw_scores(1.0, seed) for seed in (4, 5, 6)]
    rows = [
        row(name, *(outcome(seed, s) for seed, s in enumerate(scores, start=1)))
        for name, scores in (("first", first), ("second", second))
    ]
    board = Leaderboard.compare(rows, REPORTING)
    areas = [plain_auc(scores) for scores in first]
    measures = board.rows[0].measures
    assert measures["auc"] == pytest.approx(np.mean(areas))
    variance = np.mean([metrics.auc_interval(LABEL, s).standard_error ** 2 for s in first])
    over_seeds = scipy.stats.t.ppf(0.975, 2) * np.std(areas, ddof=1) / math.sqrt(3)
    half_width = math.sqrt(over_seeds**2 + scipy.stats.norm.ppf(0.975) ** 2 * variance)
    assert measures["low"] == pytest.approx(np.mean(areas) - half_width)
    paired, behind = paired_difference(LABEL, first, second), board.rows[1].behind
    assert behind is not None
    assert behind.difference == paired.difference
    assert (behind.low, behind.high) == (paired.low, paired.high)
    assert behind.verdict == "too few rows"
    record = json.loads(json.dumps(board.to_mapping()))["rows"][0]
    assert record["rows_per_second"] == 2000
    assert record["seconds"] == 20
    assert record["peak_mb"] == 300
    assert record["epochs"] == [1, 2, 3]
    assert record["seeds"] == [1, 2, 3]
    assert record["auc_by_seed"] == pytest.approx(areas)


def test_rows_with_a_cold_target_are_measured_and_compared_on_their_own() -> None:
    first, second = ([draw_scores(strength, n) for n in (1, 2)] for strength in (1.5, 1.0))
    rows = [
        row(name, *(outcome(seed, s) for seed, s in enumerate(scores, start=1)))
        for name, scores in (("first", first), ("second", second))
    ]
    board = Leaderboard.compare(rows, REPORTING)
    areas = [[plain_auc(each, IS_COLD) for each in scores] for scores in (first, second)]
    record = json.loads(json.dumps(board.to_mapping()))["rows"][1]
    assert record["auc_cold"] == pytest.approx(np.mean(areas[1]))
    assert record["behind_first_cold"]["difference"] == pytest.approx(
        np.mean(areas[0]) - np.mean(areas[1])
    )
    assert record["behind_first_cold"]["n_rows"] == IS_COLD.sum()
    assert record["auc_by_user"] == pytest.approx(0.6)
    assert record["calibration_error"] == pytest.approx(0.01)
    assert cells(board, 1)["calibration error by chance"] == "0.0120"
    assert cells(board, 1)["cold AUC"] == f"{np.mean(areas[1]):.4f}"


def test_the_cold_cells_are_empty_unless_cold_rows_have_both_classes() -> None:
    one_class = ReportingRows(LABEL, IS_COLD & (LABEL == 1))
    rows = [
        TableRow.measure(name, "din", [outcome(1, draw_scores(1, 1))], one_class) for name in "ab"
    ]
    board = Leaderboard.compare(rows, one_class)
    assert board.to_mapping()["rows"][1]["auc_cold"] is None
    assert board.rows[1].behind_cold is None
    assert cells(board, 1)["cold AUC"] == ""


def test_baselines_come_after_the_rows_with_their_difference_from_the_first_row() -> None:
    count = np.floor(draw_scores(0.3, 9) * 20)
    done = row("done", outcome(1, draw_scores(2, 1)), outcome(2, draw_scores(2, 2)))
    baseline = row("popularity", *[Outcome(n, "", "", scores=count) for n in (1, 2)], model="-")
    undefined = {"title cosine": "no titles"}
    board = Leaderboard.compare(
        [done], REPORTING, by_auc=True, baselines=[baseline], undefined=undefined
    )
    (record,) = json.loads(json.dumps(board.to_mapping()))["baselines"]
    assert record["auc"] == pytest.approx(plain_auc(count))
    assert record["behind_first"]["difference"] == pytest.approx(
        board.rows[0].measures["auc"] - plain_auc(count)
    )
    assert [record[name] for name in ("log_loss", "n_parameters", "seconds")] == [None] * 3
    assert cells(board, 1)["row"] == "popularity"
    assert cells(board, 1)["AUC"].startswith(f"{plain_auc(count):.4f} [")
    assert board.markdown()[-1] == "no baseline title cosine: no titles"


def test_a_failed_row_is_last_and_its_reason_is_below_the_table() -> None:
    diverged = Outcome(2, "key2", "inputs", failure="diverged")
    failed = row("failed", outcome(1, draw_scores(1, 1)), diverged)
    done = row("done", outcome(1, draw_scores(1, 1)), outcome(2, draw_scores(1, 2), "max_minutes"))
    board = Leaderboard.compare([failed, done], REPORTING, pairs=[("done", "failed")])
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
    assert list(written.values())[7:] == [
        *("0.0100", "0.0120"),
        *("1,234", "1,500", "15", "200", "1, 2", "1, 1", "early stopping, minutes"),
    ]
    assert board.to_mapping()["rows"][1]["failure"] == "seed 2: diverged"
    assert list(Leaderboard.compare([failed], REPORTING).failures) == ["failed"]

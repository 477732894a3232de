"""The benchmark of the gate tells a gate that holds its bounds from one that does not."""

import json

import numpy as np
import pytest

from benchmarks import gate
from mmctr_pipeline import metrics


def test_simulated_scores_have_the_auc_difference_and_correlation_that_were_asked_for() -> None:
    generator = np.random.default_rng(3)
    label, challenger, champion = gate.simulated(generator, 400_000, 0.8, 0.01, 0.9)
    assert metrics.auc(label, champion) == pytest.approx(0.8, abs=0.002)
    difference = metrics.auc(label, challenger) - metrics.auc(label, champion)
    assert difference == pytest.approx(0.01, abs=0.002)
    clicked = label == 1
    assert np.corrcoef(challenger[clicked], champion[clicked])[0, 1] == pytest.approx(0.9, abs=0.01)


def test_each_bound_that_is_missed_is_named() -> None:
    assert gate.faults(0.05, 0.8) == []
    assert gate.faults(0.051, 0.8) == ["harmful_promoted is 0.051, above 0.05"]
    assert gate.faults(0.05, 0.79) == ["better_promoted is 0.790, below 0.8"]


def test_few_challengers_end_with_the_line_of_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gate", "--challengers", "28", "--rows", "4000"])
    status = gate.main()
    captured = capsys.readouterr()
    figures = json.loads(captured.out.splitlines()[-1])
    assert figures["rows"] == [4000]
    assert status == bool(gate.faults(figures["harmful_promoted"], figures["better_promoted"]))
    assert captured.err.count("fault: ") == len(
        gate.faults(figures["harmful_promoted"], figures["better_promoted"])
    )

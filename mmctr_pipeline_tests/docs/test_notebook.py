"""The example notebook runs from its first cell to its last."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "pipeline.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_has_no_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert min(each.metrics["valid_auc"] for each in names["trained"].values()) > 0.7
    best, *_ = capsys.readouterr().out.splitlines()[-5:]
    assert 0.5 < float(best.split()[0]) < 1

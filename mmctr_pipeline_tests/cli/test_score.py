"""`mmctr score` and `mmctr recommend` score with the champion."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.serving import score_file
from mmctr_pipeline.submission.files import read_submission
from mmctr_pipeline_tests.defs.conftest import FinishedRun, finished_run  # noqa: F401
from mmctr_pipeline_tests.rounding import SCORE_TOLERANCE


@pytest.fixture(autouse=True)
def _environment(
    finished_run: FinishedRun,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = finished_run.deployment.environment()
    for name in ("MMCTR_DATA_DIR", "MMCTR_STORAGE_DIR", "MMCTR_DEVICE"):
        monkeypatch.setenv(name, variables[name])


def test_the_test_rows_get_the_scores_of_the_submission_whatever_the_batches(
    finished_run: FinishedRun,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, output = find_data(finished_run.deployment.data).test, tmp_path / "scores.parquet"
    monkeypatch.setattr(score_file, "BATCH_ROWS", 100)
    assert main(["score", str(rows), "-o", str(output)]) == 0
    found = pq.read_table(output)
    assert found.column_names == ["ID", "user_id", "item_id", "probability"]
    submission = read_submission(finished_run.deployment.storage / "submission.csv")
    assert found.column("ID").to_pylist() == submission["ID"].to_list()
    expected = submission["Task1&2"].to_numpy()
    np.testing.assert_allclose(
        found.column("probability").to_numpy(), expected, atol=SCORE_TOLERANCE
    )
    assert f"{len(expected):,} rows scored: {output}" in capsys.readouterr().out


def test_rows_that_are_not_valid_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, output = tmp_path / "rows.parquet", tmp_path / "scores.parquet"
    pq.write_table(pa.table({"item_id": [1, 2], "item_seq": [[1], None]}), rows)
    assert main(["score", str(rows), "-o", str(output)]) == 2
    assert "rows.parquet, column item_seq, row 1: the value is missing" in capsys.readouterr().err
    assert not output.exists()


def test_recommendations_show_titles(
    finished_run: FinishedRun,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    user = pq.read_table(find_data(finished_run.deployment.data).test).column("user_id")[0]
    assert main(["recommend", "--user", str(user), "--top", "3"]) == 0
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["probability", "item", "title"]
    assert len(lines) == 3
    items = pq.read_table(find_data(finished_run.deployment.data).item_feature)
    titles = dict(
        zip(*(items.column(n).to_pylist() for n in ("item_id", "item_title")), strict=True)
    )
    for line in lines:
        _, item, title = line.split(maxsplit=2)
        assert " ".join((titles[int(item)] or "").split()) == " ".join(title.split())
    assert main(["recommend", "--user", "999999999"]) == 2
    assert "no row of user 999999999" in capsys.readouterr().err

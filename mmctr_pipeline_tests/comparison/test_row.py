"""A row's process ends when its parent does, and damaged results are not reused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmctr_pipeline.comparison.row import RESULT_FILE, SCORES_FILE, RowResult
from mmctr_pipeline.data.fingerprint import file_digest
from mmctr_pipeline.files.locks import locked
from mmctr_pipeline.files.records import write_record
from mmctr_pipeline_tests.files.flipped_bits import flips, some_bits


def test_the_process_of_a_row_ends_with_its_parent_even_while_it_waits_for_the_lock(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "mmctr_pipeline.comparison.row", str(tmp_path)]
    # The lock is never released: a row that outlived its parent would wait for it forever.
    with locked(tmp_path / ".lock"):
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=900) == 1


RESULT_OF_A_ROW = RowResult(
    n_parameters=5,
    selection_auc=0.7,
    rows_per_second=1e3,
    seconds=2.0,
    peak_mb=3.0,
    epochs=1.0,
    best_epoch=1.0,
    ended_by="patience",
    history={"epochs": []},
    evaluation={"auc": {"auc": 0.7123}},
)


@pytest.mark.parametrize("file_name", [RESULT_FILE, SCORES_FILE])
def test_damaged_or_missing_results_count_as_not_done(
    file_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert RowResult.read(tmp_path) is None
    np.save(tmp_path / SCORES_FILE, np.linspace(0, 1, 9, dtype=np.float32))
    digest = file_digest(tmp_path / SCORES_FILE).hex()
    done = dataclasses.replace(RESULT_OF_A_ROW, scores_sha256=digest)
    write_record(tmp_path / RESULT_FILE, dataclasses.asdict(done))
    assert RowResult.read(tmp_path) == done
    for _ in flips(tmp_path / file_name, some_bits(tmp_path / file_name, 30)):
        caplog.clear()
        if RowResult.read(tmp_path) is None:
            assert f"{file_name} is damaged" in caplog.messages[0]
            assert caplog.messages[0].endswith("the row runs again")
        else:
            assert file_name == RESULT_FILE
            assert RowResult.read(tmp_path) == done
    (tmp_path / SCORES_FILE).unlink()
    assert RowResult.read(tmp_path) is None

"""The GPU benchmark outlives failing parts, saves each result, and rehearses on the CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part, run_all, run_part, summary
from mmctr_pipeline_tests.hidden_packages import hide_packages

OPTIONAL_PACKAGES = (
    *("click", "dagster", "matplotlib", "pandas", "PIL", "polars", "pydantic", "tabulate"),
)


def program(source: str, limit: float = 900, name: str = "part") -> Part:
    """Return a part that runs Python source code for at most `limit` seconds."""
    return Part(name, [sys.executable, "-c", source], limit)


def run(part: Part) -> dict[str, Any]:
    return run_part(part, deadline=time.monotonic() + 900)


def test_a_part_that_succeeds_returns_its_last_json_object() -> None:
    found = run(program("""print('{"ours": 1}\\n{"ours": 2}\\n{no JSON}\\nend')"""))
    assert (found["ok"], found["result"]) == (True, {"ours": 2})


def test_a_part_that_fails_returns_what_it_printed() -> None:
    found = run(
        program("""print('{"ours": 1}', flush=True); print("x" * 9000); raise OSError(5)""")
    )
    assert (found["ok"], found["result"]) == (False, {"ours": 1})
    assert found["outcome"].startswith("exit status 1 after")
    assert found["output_end"].endswith("OSError: 5")
    assert len(found["output_end"]) == 4000


@pytest.mark.slow
def test_a_part_beyond_its_limit_is_killed_with_its_children(tmp_path: Path) -> None:
    child = f"import time; time.sleep(2); open({str(tmp_path / 'alive')!r}, 'w')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    found = run(program(parent, limit=1))
    assert (found["ok"], found["outcome"]) == (False, "killed after 1 s")
    time.sleep(2)
    assert not (tmp_path / "alive").exists()


def test_parts_are_left_out_when_time_is_up_or_a_package_is_missing() -> None:
    late = run_part(program("1 / 0"), deadline=time.monotonic())
    assert late == {"ok": None, "outcome": "left out: no time"}
    absent = run(Part("tests", [], 900, left_out="pytest is not installed"))
    assert absent == {"ok": None, "outcome": "left out: pytest is not installed"}


def test_pytest_counts_and_warnings_about_dropped_graphs_are_found() -> None:
    warning = "training continues without the CUDA graph, which is slower"
    found = run(program(f"print('{warning}'); print('2 failed, 14 passed, 1 error in 3.21s')"))
    assert found["result"] == {"failed": 2, "passed": 14, "error": 1}
    assert found["warnings"] == [warning]


def test_each_part_is_saved_before_the_next_group_starts(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    # Fails unless the file already has the first part.
    reader = f"assert 'first' in open({str(out)!r}).read(); print('{{}}')"
    groups = [[program("1 / 0", name="first")], [program(reader, name="second")]]
    run_all(groups, {"rehearsal": False}, out)
    found = json.loads(out.read_text())["parts"]
    assert {name: part["ok"] for name, part in found.items()} == {"first": False, "second": True}


def test_the_summary_works_when_parts_failed_or_did_not_run() -> None:
    empty = summary({})
    assert (empty["ours"], empty["ratio"], empty["failed"]) == (None, None, [])
    full = {"ours": 2e6, "epoch_seconds": 2.0, "validation_seconds": 0.5}
    found = summary({"train_full": {"ok": True, "result": full}, "score": {"ok": False}})
    assert (found["ratio"], found["twelve_epochs_seconds"]) == (2.0, 30.0)
    assert found["failed"] == ["score"]


def test_the_first_part_runs_the_tests_that_need_cuda() -> None:
    (tests, *_), *_ = gpu.part_groups(rehearse=False, data=Path("data"))
    files = [word for word in tests.command if word.endswith(".py")]
    assert "mmctr_pipeline_tests/training/test_replayed_training.py" in files
    assert len(files) >= 4


@pytest.mark.slow
def test_the_rehearsal_runs_without_optional_packages(tmp_path: Path) -> None:
    # The sides of `train` have a test of their own, and those of `parity` train as `train_full`.
    # Python imports this module at the start of every process.
    (tmp_path / "sitecustomize.py").write_text(hide_packages(*OPTIONAL_PACKAGES))
    out = tmp_path / "gpu.json"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", out),
            *("--parts", "tests", "data", "train_full", "score"),
        ],
        capture_output=True,
        text=True,
        cwd=gpu.REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert process.returncode == 0, process.stderr
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == {"tests", "data", "train_full", "score"}
    assert set(parts["tests"]["result"]) <= {"skipped", "passed"}
    assert parts["data"]["ok"], parts["data"]["output_end"]
    for name in ("train_full", "score"):
        assert parts[name]["result"]["ours"] > 0, parts[name]["output_end"]
    line = json.loads(process.stdout.splitlines()[-1])
    assert (line["name"], line["rehearsal"], line["peer"]) == ("gpu", True, 1_000_000)
    assert line["failed"] == []


def test_only_known_parts_can_be_chosen() -> None:
    groups = [
        [program("1", name="first"), program("1", name="second")],
        [program("1", name="third")],
    ]
    chosen = gpu.only(groups, ["third", "first"])
    assert [[part.name for part in group] for group in chosen] == [["first"], ["third"]]
    with pytest.raises(SystemExit, match="no part 'fourth'; known: first, second, third"):
        gpu.only(groups, ["fourth"])

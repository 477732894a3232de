"""The soak test's plan, the faults that it finds, and one of its points on real runs."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.soak_place import Reference
from mmctr_pipeline_tests.defs.running import REPOSITORY


def test_the_full_plan_has_over_100_points_and_ten_kills_per_asset() -> None:
    points = soak.plan(full=True, n_points=None, seed=1)
    assert len(points) > 100
    assert [point.number for point in points] == list(range(len(points)))
    assert points == soak.plan(full=True, n_points=None, seed=1)
    assert points != soak.plan(full=True, n_points=None, seed=2)
    per_asset = collections.Counter(point.asset for point in points if point.asset)
    assert per_asset == dict.fromkeys(soak.ASSETS, 10)
    assert {point.kind for point in points if point.asset} == {"kill", "term"}
    assert min(collections.Counter(point.kind for point in points).values()) >= 6
    assert {point.executor for point in points} == {"multiprocess"}


def test_the_six_points_of_the_short_plan_include_every_kind() -> None:
    points = soak.plan(full=False, n_points=None, seed=1)
    assert [point.kind for point in points] == [
        *("kill", "write", "term", "together", "prune", "kill")
    ]


def test_lost_and_differing_artefacts_are_named() -> None:
    earlier = {"a.pt": "1", "b.pt": "1", "c.pt": "1", "models/1/model.pt": "1"}
    new = {"a.pt": "2", "b.pt": "2", "c.pt": "2", "models/2/model.pt": "2"}
    undisturbed = {**earlier, **new}
    reference = Reference(earlier, undisturbed, 1.0, {}, [1])
    found = {"a.pt": "1", "b.pt": "2", "c.pt": "half", "models/3/model.pt": "2"}
    assert reference.lost(found) == ["c.pt", "models/1/model.pt"]
    assert reference.differing(found) == ["a.pt", "c.pt"]
    assert reference.differing({**undisturbed, "d.pt": "1"}) == ["d.pt"]
    assert reference.lost({"a.pt": "1", "c.pt": "2"}) == ["b.pt", "models/1/model.pt"]
    assert reference.lost(earlier) == reference.lost({**earlier, "a.pt": "2"}) == []


@pytest.mark.slow
def test_a_point_finds_no_fault_and_a_second_soak_does_not_repeat_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--points", "1", "--folder", str(tmp_path)]
    for _ in range(2):
        result = subprocess.run(
            [*command, "--scale", "0.05"], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr[-4000:]
        line = json.loads(result.stdout.splitlines()[-1])
        assert (line["name"], line["points"]) == ("soak", 1)
        assert (line["lost"], line["differing"], line["left_behind"]) == (0, 0, 0)
        assert line["kinds"] == {"kill": 1}
    # The second soak found the point done, so it started no run and logged nothing.
    assert result.stderr == ""

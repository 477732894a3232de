"""The benchmark `cold_rows` scores every valid row once, and both presets on the same rows."""

import json
from pathlib import Path

import pytest

from benchmarks import cold_rows
from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

PRESET = """
extends: sample
encoders: {text: {source: open_clip, model: tiny-clip}, image: {source: none}}
training: {max_epochs: 1, batch_size: 512, seed: SEED}
"""


@pytest.mark.slow
def test_every_valid_row_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_sample(SampleConfig.scaled(0.05, seed=7, images=False), tmp_path / "data")
    paths = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for seed, path in enumerate(paths):
        path.write_text(PRESET.replace("SEED", str(seed)), encoding="utf-8")
    results = []
    for arguments in (paths, [paths[0], paths[0]]):
        command = ["cold_rows", str(tmp_path / "data"), *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        cold_rows.main()
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    different, same = results
    assert different["all"]["rows"] == different["cold"]["rows"] + different["warm"]["rows"]
    assert different["cold"]["rows"] > 0
    assert different["all"]["difference"] != 0
    assert same["all"]["difference"] == same["cold"]["difference"] == 0
    # The first preset is the same in both comparisons, and so are its scores.
    assert same["all"]["first"] == different["all"]["first"]

"""`mmctr settings` lists every setting of the preset with its value and bounds."""

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.presets.preset import load_preset


def test_all_settings_of_the_preset_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_PRESET", "similarity_attention")
    assert main(["settings"]) == 0
    listed = {line.split(" ")[0] for line in capsys.readouterr().out.splitlines()}
    for section, values in load_preset("similarity_attention").to_mapping().items():
        for name, value in values.items():
            if not isinstance(value, dict):
                assert f"{section}.{name}" in listed
    assert "model.features.embedding_dim" in listed
    assert main(["settings", "training.learning_rate"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "training." in each]
    assert line.split()[:2] == ["training.learning_rate", "0.005"]
    assert "> 0" in line


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "trainig"]) == 2
    assert "no setting that begins with 'trainig'" in capsys.readouterr().err

"""`mmctr repeat` repeats a recorded run byte for byte, or lists the differences."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.registry.model_file import ModelFile
from mmctr_pipeline.registry.versions import write_version
from mmctr_pipeline_tests.defs.conftest import FinishedRun
from mmctr_pipeline_tests.defs.running import Deployment


@pytest.fixture(autouse=True)
def _restore_threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def deployment(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Deployment:
    """A copy of the finished run, set as the deployment of this process."""
    copy = finished_run.copy(tmp_path)
    for name, value in copy.environment().items():
        monkeypatch.setenv(name, value)
    return copy


def repeat(
    capsys: pytest.CaptureFixture[str], *arguments: str, status: int
) -> tuple[str, dict[str, Any]]:
    """Run the command, and return its output and the JSON in it.

    If the expected status is 2, return the line of the error and {}.
    """
    returned = main(["repeat", *arguments])
    out, err = capsys.readouterr()
    assert returned == status, out + err[-3000:]
    if status == 2:
        return err.splitlines()[-1], {}
    return out, json.loads(out.splitlines()[-1])


def write_changed_version(deployment: Deployment, **fields: Any) -> None:
    """Write the model with changed `fields` as a new version, which becomes the latest."""
    model = ModelFile.load(deployment.storage / "latest_model.pt")
    write_version(deployment.storage, dataclasses.replace(model, **fields))


def test_a_run_is_repeated_byte_for_byte(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(str(path) for path in deployment.storage.rglob("*"))
    (version,) = [path.parent.name for path in deployment.storage.glob("models/*/model.pt")]
    out, line = repeat(capsys, version, status=0)
    assert line["equal"]
    assert line["notes"] == []
    assert {result["name"] for result in line["results"]} == {
        *("text encoder", "image encoder", "transform"),
        *("fused vectors", "text vectors", "image vectors"),
        *("weights", "scores of valid at selection", "scores of valid", "scores of test"),
        "submission.csv and its zip",
    }
    assert "equal, byte for byte" in out
    assert sorted(str(path) for path in deployment.storage.rglob("*")) == before


@pytest.mark.slow
def test_a_run_is_repeated_without_its_stored_vectors_and_transform(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(deployment.storage / "transforms")
    shutil.rmtree(deployment.storage / "vectors")
    _, line = repeat(capsys, "--fresh", status=0)
    assert line["equal"]
    assert not (deployment.storage / "vectors").exists()
    assert not (deployment.storage / "transforms").exists()


def test_differences_and_changed_conditions_are_printed(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ModelFile.load(deployment.storage / "latest_model.pt")
    weights = dict(model.state_dict)
    name = next(
        name for name, weight in weights.items() if weight.is_floating_point() and weight.ndim
    )
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] += 0.25
    conditions = {**model.conditions, "threads": 7, "CPU capability": "ABACUS"}
    write_changed_version(deployment, state_dict=weights, conditions=conditions)
    out, line = repeat(capsys, "--threads", "1", status=1)
    assert not line["equal"]
    results = {result["name"]: result for result in line["results"]}
    assert not results["weights"]["equal"]
    assert results["weights"]["difference"] == f"1 of {len(weights)} tensors, by up to 0.25"
    assert results["scores of valid at selection"]["equal"]
    assert results["fused vectors"]["equal"]
    assert "note: recorded with threads 7, now 1: the last digits may differ" in out
    assert "recorded with CPU capability ABACUS, now" in out
    assert "\ndifferent\n" in out


def test_a_changed_encoder_or_transform_stops_the_repeat_before_training(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    identities = {"text": "another encoder", "image": "another encoder"}
    write_changed_version(deployment, encoder_identities=identities, transform_identity="pca1:0123")
    out, line = repeat(capsys, status=1)
    assert [result["equal"] for result in line["results"]] == [False] * 3
    assert line["notes"][-1].startswith("not trained, as the vectors differ")
    assert "another encoder" in out


def test_a_run_that_cannot_be_repeated_is_reported_in_one_line(
    deployment: Deployment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (version,) = [path.parent.name for path in deployment.storage.glob("models/*/model.pt")]
    line, _ = repeat(capsys, "no-such-version", status=2)
    assert line.endswith(f"models has no version no-such-version; it has: {version}")

    # Invert the labels of the valid rows.
    data = tmp_path / "data"
    shutil.copytree(deployment.data, data)
    path = next(data.rglob("valid.parquet"))
    table = pq.read_table(path)
    label = pa.array(1 - table.column("label").to_numpy(), table.schema.field("label").type)
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", label), path)
    monkeypatch.setenv("MMCTR_DATA_DIR", str(data))
    line, _ = repeat(capsys, status=2)
    assert line.startswith(f"error: the data in {data} are not those of the recorded run")

    monkeypatch.setenv("MMCTR_DATA_DIR", str(deployment.data))
    write_changed_version(deployment, resolved_config={})
    line, _ = repeat(capsys, status=2)
    assert "the configuration of encoders and fusion in the model file is not usable" in line

    (deployment.storage / "latest_model.pt").write_bytes(b"no model")
    line, _ = repeat(capsys, status=2)
    assert "/model.pt" in line
    assert "damaged, not a file of tensors" in line

    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path / "new"))
    line, _ = repeat(capsys, status=2)
    assert line.endswith("it has: none yet; materialise trained_model")

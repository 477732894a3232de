"""The preflight finds on real files what would fail hours later, each with a fix in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmctr_pipeline.cli.main import main
from mmctr_pipeline.data.config import DEFAULT_DATA
from mmctr_pipeline.data.discovery import find_data
from mmctr_pipeline.data.window import find_splits
from mmctr_pipeline.environment import Deployment
from mmctr_pipeline.models.batch import FeatureSpec
from mmctr_pipeline.models.catalogue import build_model
from mmctr_pipeline.preflight.check import preflight
from mmctr_pipeline.preflight.data import TableSizes, table_sizes
from mmctr_pipeline.preflight.findings import Finding, table
from mmctr_pipeline.preflight.model import count_weights
from mmctr_pipeline.preflight.storage import estimate, space
from mmctr_pipeline.presets.preset import Preset, load_preset
from mmctr_pipeline_tests.data.day_data import write_day, write_days
from mmctr_pipeline_tests.hidden_packages import hide_packages

CLICKS = "MicroLens_1M_x1"


@pytest.fixture
def data(small_sample: Path, tmp_path: Path) -> Path:
    """A sample dataset that a test may change."""
    return shutil.copytree(small_sample, tmp_path / "data")


def preset(text: str, folder: Path) -> Preset:
    path = folder / "mine.yaml"
    path.write_text(f"extends: sample\n{text}\n")
    return load_preset(str(path))


def check(data: Path, preset: Preset, device: str = "cpu") -> list[Finding]:
    storage = data.parent / "storage"
    return preflight(Deployment(data, storage, preset=None, device=device), preset)


def only_error(findings: list[Finding]) -> Finding:
    """Return the only error, after checking that it has a fix and takes one line in the table."""
    (error,) = [finding for finding in findings if finding.severity == "error"]
    assert "Fix: " in error.text
    lines = table(findings).splitlines()
    assert len(lines) == len(findings)
    assert lines[0].startswith(f"error    {error.check} ")
    assert error.text in lines[0]
    return error


def with_labels(data: Path, split: str, label: int, statistics: bool = True) -> None:
    """Set all labels of a split."""
    path = data / CLICKS / f"{split}.parquet"
    content = pq.read_table(path)
    index = content.schema.get_field_index("label")
    content = content.set_column(index, "label", pa.array([label] * len(content), pa.int8()))
    pq.write_table(content, path, write_statistics=statistics)


def test_a_run_that_can_succeed_has_no_errors_and_nothing_is_encoded(data: Path) -> None:
    findings = check(data, load_preset("sample"))
    assert {finding.severity for finding in findings} == {"ok"}
    checks = [finding.check for finding in findings]
    for name in ("device", "storage", "tables", "train labels", "valid labels", "template"):
        assert name in checks
    for name in ("text encoder", "image encoder", "covers", "model", "space"):
        assert name in checks
    assert list((data.parent / "storage").iterdir()) == []


def test_missing_clip_weights_of_titles_and_covers_are_one_error(data: Path) -> None:
    folder = data.parent / "clip"
    shutil.copytree(Path(__file__).parents[2] / "mmctr_pipeline/encoders/tiny_clip", folder)
    (folder / "open_clip_model.safetensors").unlink()
    settings = f"{{source: open_clip, model: 'local-dir:{folder}'}}"
    broken = preset(f"encoders: {{text: {settings}, image: {settings}}}", data.parent)
    error = only_error(check(data, broken))
    assert (error.check, error.where) == (
        "text and image encoder",
        "encoders.text.model, encoders.image.model",
    )
    assert f"{folder} has no weights" in error.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(data: Path) -> None:
    error = only_error(check(data, load_preset("sample"), device="cuda"))
    assert (error.check, error.where) == ("device", "MMCTR_DEVICE")
    assert "unknown device 'cuda'; this machine has: auto, cpu" in error.text


def test_a_column_of_given_vectors_that_is_not_there_is_an_error(data: Path) -> None:
    path = data / "item_feature.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["txt_emb_BERT"]), path)
    error = only_error(check(data, load_preset("improved_mmctr_given")))
    assert (error.check, error.where) == ("text vectors", "encoders.text.column")
    assert "column txt_emb_BERT: no vector column of this name" in error.text


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("{template: '{titel}'}", "encoders.text.template", "the template '{titel}' must name"),
        ("{template: '{title} {tags}'}", "encoders.text.template", "set encoders.text.tag_names"),
        ("{tag_names: /no/tags.csv}", "encoders.text.tag_names", "/no/tags.csv: tag names cannot"),
    ],
)
def test_an_impossible_template_is_an_error(
    text: str, where: str, message: str, data: Path
) -> None:
    error = only_error(check(data, preset(f"encoders: {{text: {text}}}", data.parent)))
    assert error.where == where
    assert message in error.text


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize(("split", "label"), [("valid", 0), ("train", 1)])
def test_labels_of_one_class_are_an_error_with_or_without_statistics(
    split: str, label: int, statistics: bool, data: Path
) -> None:
    with_labels(data, split, label, statistics)
    error = only_error(check(data, load_preset("sample")))
    assert error.check == f"{split} labels"
    assert f"all labels of {split}.parquet are {label} (" in error.text


def test_missing_covers_are_an_error_if_they_are_encoded(data: Path) -> None:
    for path in sorted((data / "item_images").iterdir())[10:]:
        path.unlink()
    error = only_error(check(data, load_preset("sample")))
    assert (error.check, error.where) == ("covers", str(data / "item_images"))
    assert "of the items have no cover file (limit 20.0%)" in error.text
    assert "error" not in {each.severity for each in check(data, load_preset("text_only"))}


def test_the_window_and_its_days_without_a_folder_are_named(tmp_path: Path) -> None:
    data = write_days(tmp_path / "data", "2026-01-01", "2026-01-02", "2026-01-04")
    text = "encoders: {image: {source: none}}\ndata: {min_valid_rows: 1}"
    (days,) = [each for each in check(data, preset(text, tmp_path)) if each.check == "days"]
    assert days.severity == "ok"
    assert days.text == (
        "window of 2026-01-04: train 2026-01-01 to 2026-01-02 (2 days), valid 2026-01-04 (1 day) "
        "with 4 rows; days of the window without a folder: 2026-01-03"
    )


def test_a_half_written_day_that_the_preset_names_is_an_error(tmp_path: Path) -> None:
    data = write_days(tmp_path / "data")
    write_day(data, "2026-01-05", marked=False)
    text = "encoders: {image: {source: none}}\ndata: {day: 2026-01-05, min_valid_rows: 1}"
    error = only_error(check(data, preset(text, tmp_path)))
    assert (error.check, error.where) == ("days", "data.day")
    assert "day=2026-01-05: the day is not complete: its folder has no file _SUCCESS" in error.text


def test_a_storage_folder_that_cannot_be_written_to_is_an_error(data: Path) -> None:
    deployment = Deployment(data, Path("/proc/mmctr"), preset=None, device="cpu")
    error = only_error(preflight(deployment, load_preset("sample")))
    assert (error.check, error.where) == ("storage", "/proc/mmctr")


def test_a_storage_folder_without_room_for_the_run_is_an_error(data: Path) -> None:
    error = space(data, {"vectors": shutil.disk_usage(data).free, "dataset": 10**9})
    assert error.severity == "error"
    assert "GB (vectors " in error.text
    assert "are free. Fix: free some space there, or set MMCTR_STORAGE_DIR" in error.text


def test_the_estimate_grows_with_items_dimensions_and_model(data: Path) -> None:
    layout = find_data(data)
    sizes = table_sizes(layout, find_splits(layout, DEFAULT_DATA))
    assert (sizes.n_items, sizes.n_train_rows) == (225, 6000)
    parts = estimate(data, 1000, {"text": 384, "image": 512, "fused": 128}, 10**6, 10**6, 0)
    assert parts["vectors"] == 4 * 1000 * (2 * (384 + 512) + 2 * 128)
    assert parts["dataset"] == 10**6
    assert parts["model and checkpoint"] == 24 * 10**6


@pytest.mark.parametrize("name", ["improved_mmctr", "din", "similarity_attention"])
def test_the_number_of_weights_is_that_of_the_model(name: str) -> None:
    """Checked against models of two catalogues, so that each table counts with its rows."""
    config, dims = load_preset(name).model, {"text": 384, "image": 512, "fused": 128}
    for n_users, n_items, n_tags in ((50, 40, 30), (5000, 400, 3)):
        widths = {f"{kind}_dim": dims[kind] for kind in config.modalities}
        spec = FeatureSpec(n_users=n_users, n_items=n_items, n_tags=n_tags, **widths)
        exact = sum(weight.numel() for weight in build_model(config, spec).parameters())
        sizes = TableSizes(n_items=n_items, n_users=n_users, n_tags=n_tags, n_train_rows=1)
        assert count_weights(config, dims, sizes) == exact


def test_a_model_that_cannot_be_built_is_an_error(data: Path) -> None:
    text = (
        "encoders: {image: {source: none}}\n"
        "model: {name: din_semantic_ids, fused_codes: false, image_codes: true}"
    )
    error = only_error(check(data, preset(text, data.parent)))
    assert error.where == "model"
    assert "din_semantic_ids cannot be built: no item has a vector of a kind" in error.text


def test_data_that_cannot_be_found_are_an_error(data: Path) -> None:
    (data / "item_feature.parquet").unlink()
    error = only_error(check(data, load_preset("sample")))
    assert (error.check, error.where) == ("data", str(data))
    assert "item_feature.parquet not found" in error.text


def test_only_what_the_materialised_assets_need_is_checked(data: Path) -> None:
    with_labels(data, "valid", 0)
    deployment = Deployment(data, data.parent / "storage", preset=None, device="cpu")
    broken = preset("encoders: {text: {model: /no/model}}", data.parent)
    findings = preflight(deployment, broken, ["image_embeddings"])
    assert {finding.severity for finding in findings} == {"ok"}
    assert "image encoder" in [finding.check for finding in findings]


def test_covers_at_a_url_must_be_there(data: Path) -> None:
    url = f"file://{data / 'item_images'}"
    image = "encoders: {image: {images_url: '%s'}}"
    findings = check(data, preset(image % url, data.parent))
    assert {finding.severity for finding in findings} == {"ok"}
    error = only_error(check(data, preset(image % f"{url}/none", data.parent)))
    assert (error.check, error.where) == ("covers", f"{url}/none")
    assert "there is no such folder" in error.text


ON_RAY = "encoders: {text: {compute: ray}, image: {compute: ray}}"


def test_a_ray_cluster_that_does_not_answer_is_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    error = only_error(check(data, preset(ON_RAY, data.parent)))
    assert (error.check, error.where) == ("ray", "encoders.text.compute, encoders.image.compute")
    assert "RAY_ADDRESS is '127.0.0.1:1', but Ray cannot connect" in error.text
    assert {finding.check for finding in check(data, load_preset("sample"))}.isdisjoint({"ray"})


def test_more_ranks_than_this_machine_has_cpus_are_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    def on_ranks(count: int) -> Preset:
        return preset(f"training: {{compute: ray, workers: {count}}}", data.parent)

    error = only_error(check(data, on_ranks(4)))
    assert (error.check, error.where) == ("ray", "training.compute")
    assert "training.workers is 4, but this machine has 2 CPUs. Fix: " in error.text
    texts = {finding.check: finding.text for finding in check(data, on_ranks(2))}
    assert texts["ray"] == "Ray starts on this machine"


def test_ray_without_its_extra_is_an_error(data: Path) -> None:
    preset(ON_RAY, data.parent)
    code = (
        hide_packages("ray") + "from mmctr_pipeline.cli.main import main\nsys.exit(main(['check']))"
    )
    variables = {
        "MMCTR_DATA_DIR": str(data),
        "MMCTR_PRESET": str(data.parent / "mine.yaml"),
        "MMCTR_STORAGE_DIR": str(data.parent / "storage"),
    }
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
    )
    assert found.returncode == 1
    error, *others = found.stdout.splitlines()
    assert error.startswith("error    ray ")
    assert "make install EXTRAS=ray" in error
    assert {line.split()[0] for line in others} == {"ok"}


def test_the_command_prints_a_line_for_each_finding_and_fails_if_one_is_an_error(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMCTR_DATA_DIR", str(data))
    monkeypatch.setenv("MMCTR_PRESET", "sample")
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(data.parent / "storage"))
    monkeypatch.setenv("MMCTR_STORAGE", "x")
    assert main(["check"]) == 0
    out, err = capsys.readouterr()
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert "(did you mean MMCTR_STORAGE_DIR?)" in err
    with_labels(data, "valid", 0)
    assert main(["check"]) == 1
    assert capsys.readouterr().out.startswith("error    valid labels ")

"""Sample datasets are reproducible, and their folders are complete or absent."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from mmctr_pipeline.sample.config import SampleConfig, SamplePaths
from mmctr_pipeline.sample.write import ensure_sample, generate_sample, read_best_possible_auc

TINY = SampleConfig.scaled(0.02)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_equal_settings_give_equal_bytes_and_another_seed_changes_every_file(
    tmp_path: Path,
) -> None:
    for name, seed in (("one", 7), ("same", 7), ("other", 8)):
        generate_sample(SampleConfig.scaled(0.02, seed=seed), tmp_path / name)
    one, same, other = (contents(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same
    data_files = [name for name in one if name in other]
    assert len(data_files) > 100
    assert not [name for name in data_files if one[name] == other[name]]


PLAIN_PROCESS = """
import sys
from pathlib import Path

for name in ("PIL", "polars", "filelock", "dagster", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import generate_sample

generate_sample(SampleConfig.scaled(0.02, images=False), Path(sys.argv[1]))
"""


def test_without_images_the_other_files_are_the_same_and_need_only_numpy_and_pyarrow(
    tmp_path: Path,
) -> None:
    """The files are also the same in a process with another hash seed and number of threads."""
    with_images = generate_sample(TINY, tmp_path / "with")
    environment = {**os.environ, "PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN_PROCESS, str(tmp_path / "plain")]
    subprocess.run(command, env=environment, check=True)
    generate_sample(SampleConfig.scaled(0.02, images=False), tmp_path / "without")
    without_images = contents(tmp_path / "without")
    assert contents(tmp_path / "plain") == without_images
    assert not SamplePaths(tmp_path / "without").images.exists()
    expected = {
        name: digest
        for name, digest in contents(tmp_path / "with").items()
        if not name.startswith("item_images/") and name != "sample_dataset.json"
    }
    assert {
        **expected,
        "sample_dataset.json": without_images["sample_dataset.json"],
    } == without_images
    assert with_images["n_images"] > 100


ENSURING_PROCESS = """
import logging
import sys
from pathlib import Path

from mmctr_pipeline.sample.config import SampleConfig
from mmctr_pipeline.sample.write import ensure_sample

logging.basicConfig(level=logging.INFO)
sys.stdout.write(f"{ensure_sample(SampleConfig.scaled(0.1), Path(sys.argv[1]))}")
"""


def test_concurrent_processes_generate_one_dataset(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENSURING_PROCESS, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    config = SampleConfig.scaled(0.1)
    assert {folder for folder, _ in outputs} == {str(tmp_path / config.key)}
    # Only the process that generated the dataset logged anything.
    assert sorted(bool(log) for _, log in outputs) == [False, True]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [config.key]
    assert read_best_possible_auc(tmp_path / config.key) is not None


def test_a_complete_dataset_is_reused_and_an_incomplete_one_generated_again(tmp_path: Path) -> None:
    folder = ensure_sample(TINY, tmp_path)
    before = contents(folder)
    written_at = os.stat(folder / "item_seq.parquet").st_mtime_ns
    assert ensure_sample(TINY, tmp_path) == folder
    assert os.stat(folder / "item_seq.parquet").st_mtime_ns == written_at
    (folder / "sample_dataset.json").unlink()
    (folder / "item_seq.parquet").write_bytes(b"half")
    leftover = tmp_path / f".{TINY.key}.making"
    leftover.mkdir()
    (leftover / "item_seq.parquet").write_bytes(b"half")
    assert ensure_sample(TINY, tmp_path) == folder
    assert contents(folder) == before
    assert not leftover.exists()


def test_a_folder_without_a_sample_dataset_has_no_best_possible_auc(tmp_path: Path) -> None:
    assert read_best_possible_auc(tmp_path) is None

"""The Dockerfile's commands give an environment of its own, in which the whole pipeline runs.

The commands run without Docker, in folders of this test instead of those of the image. What a base
image, a user and layers add is not tested here.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline_tests.defs.running import PRESET, REPOSITORY
from mmctr_pipeline_tests.deploy import dockerfile

pytestmark = pytest.mark.slow

DOCKERFILE = REPOSITORY / "Dockerfile"
OWN_VARIABLES = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "DAGSTER_HOME")


@dataclasses.dataclass(frozen=True)
class Image:
    """The folder that stands for the root of the image, and the variables of its processes."""

    root: Path
    variables: dict[str, str]

    def here(self, text: str) -> str:
        """Replace the folders of the image."""
        for folder in ("/opt/mmctr", "/var/lib/mmctr", "/tmp/matplotlib"):
            text = text.replace(folder, str(self.root) + folder)
        return text

    def run(self, *command: str, **variables: str) -> str:
        """Run a command in the folder of the volume and return its output."""
        result = subprocess.run(
            command,
            cwd=self.here("/var/lib/mmctr"),
            env={**self.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        return result.stdout


def _build(root: Path) -> Image:
    """Carry out the instructions of the Dockerfile."""
    base = root / "usr" / "local" / "bin"
    base.mkdir(parents=True)
    (base / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    # What belongs to this machine stays: its package indexes, caches and certificates.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in OWN_VARIABLES and not name.startswith("MMCTR_")
    }
    image = Image(root, inherited | {"PATH": f"{base}:/usr/bin:/bin"})
    folder = root
    for instruction in dockerfile.instructions(DOCKERFILE):
        match instruction.name:
            case "ARG":
                name, _, value = instruction.rest.partition("=")
                image.variables[name] = value.strip('"')
            case "ENV":
                for name, value in dockerfile.environment(DOCKERFILE).items():
                    here = image.here(value).replace("/usr/local/bin", str(base))
                    image.variables[name] = here
            case "WORKDIR":
                folder = Path(image.here(instruction.rest))
                folder.mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = instruction.rest.split()
                for source in sources:
                    _copy(REPOSITORY / source, folder / target)
            case "RUN" if not instruction.rest.startswith("useradd"):
                subprocess.run(
                    image.here(instruction.rest),
                    shell=True,
                    cwd=folder,
                    env=image.variables,
                    check=True,
                )
    for created in ("/opt/mmctr/dagster", "/var/lib/mmctr"):
        Path(image.here(created)).mkdir(parents=True, exist_ok=True)
    return image


def _copy(source: Path, target: Path) -> None:
    """Copy what .dockerignore lets through."""
    allowed = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert f"!{source.name}" in allowed
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image")
    yield _build(root)
    shutil.rmtree(root)  # several GB


def test_the_image_has_the_package_with_all_extras_and_no_tools_of_development(
    image: Image,
) -> None:
    code = (
        "import importlib.util, dagster_k8s, dagster_postgres, mmctr_pipeline, s3fs; "
        "print(importlib.util.find_spec('pytest'), mmctr_pipeline.__file__)"
    )
    pytest_spec, place = image.run("python", "-c", code).split()
    assert pytest_spec == "None"
    assert Path(place).is_relative_to(image.here("/opt/mmctr/venv"))


def test_the_whole_pipeline_runs_in_the_image(image: Image) -> None:
    volume = Path(image.here("/var/lib/mmctr"))
    (volume / "preset.yaml").write_text(PRESET)
    image.run("mmctr", "sample", str(volume / "data"), "--scale", "0.15")
    image.run(
        *("python", "-m", "mmctr_pipeline.defs.run"),
        MMCTR_DATA_DIR=str(volume / "data"),
        MMCTR_PRESET=str(volume / "preset.yaml"),
        MMCTR_DEVICE="cpu",
        MMCTR_EXECUTOR="in_process",
    )
    assert (volume / "storage" / "prediction.zip").is_file()


def test_the_command_of_the_image_loads_the_definitions(image: Image) -> None:
    module = dockerfile.command(DOCKERFILE)[-1]
    log = image.run("dagster", "definitions", "validate", "-m", module)
    assert log.count("Validation successful for code location") == 1

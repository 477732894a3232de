"""`make install` links Dagster's instance file, also in folders whose names have spaces."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mmctr_pipeline_tests.make import MAKE, make_environment

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with spaces in its path, with the files that `make install` reads."""
    folder = tmp_path / "a b" / "my  checkout"
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / ".installed-dev").touch()
    for name in ("Makefile", "dagster.yaml", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, folder)
    return folder


def test_install_links_the_instance_file_within_the_checkout(checkout: Path) -> None:
    before = set(checkout.parent.rglob("*"))
    for _ in range(2):
        subprocess.run([*MAKE, "install"], cwd=checkout, env=make_environment(), check=True)
    link = checkout / ".dagster" / "dagster.yaml"
    assert link.readlink() == checkout / "dagster.yaml"
    assert set(checkout.parent.rglob("*")) - before == {link, link.parent}
    assert list(checkout.parents[1].iterdir()) == [checkout.parent]


def test_several_installs_at_once_may_share_a_dagster_home_with_spaces(
    checkout: Path, tmp_path: Path
) -> None:
    home = tmp_path / "the home" / "of dagster"
    environment = make_environment(DAGSTER_HOME=str(home))
    processes = [
        subprocess.Popen([*MAKE, "install"], cwd=checkout, env=environment) for _ in range(6)
    ]
    assert [process.wait() for process in processes] == [0] * 6
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
    assert (home / "dagster.yaml").samefile(checkout / "dagster.yaml")
    assert {path.name for path in tmp_path.iterdir()} == {"a b", "the home"}


def test_an_existing_instance_file_of_the_user_is_left_alone(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = make_environment(DAGSTER_HOME=str(tmp_path))
    subprocess.run([*MAKE, "install"], cwd=checkout, env=environment, check=True)
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


@pytest.mark.parametrize("home", ["file", "file/below"])
def test_an_unusable_dagster_home_is_named(home: str, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = subprocess.run(
        [*MAKE, "install"],
        cwd=checkout,
        env=make_environment(DAGSTER_HOME=str(tmp_path / home)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert f"error: DAGSTER_HOME is '{tmp_path / home}'. Fix: " in result.stdout

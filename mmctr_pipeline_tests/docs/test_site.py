"""The documents build as a site whose links all lead somewhere, without another server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmctr_pipeline_tests.make import MAKE, make_environment

REPOSITORY = Path(__file__).parents[2]
_LOADED = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?(https?:[^"' >]+)"""
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder of links to the files of the checkout and of its environment."""
    folder = tmp_path / "checkout"
    environment = folder / ".venv"
    environment.mkdir(parents=True)
    for path in REPOSITORY.glob("[!.]*"):
        if path.name != "site":
            (folder / path.name).symlink_to(path)
    for path in Path(sys.prefix).iterdir():
        (environment / path.name).symlink_to(path)
    installed = environment / ".installed-dev"
    if not installed.exists():
        installed.touch()
    return folder


def test_the_site_has_all_documents_and_loads_nothing_from_elsewhere(checkout: Path) -> None:
    pytest.importorskip("mkdocs")
    subprocess.run([*MAKE, "site"], cwd=checkout, env=make_environment(), check=True)
    site = checkout / "site"
    pages = {path.parent.name for path in site.glob("*/index.html")}
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= pages
    assert (site / "repository" / "examples" / "last_item.py").is_file()
    loaded = {
        address
        for page in site.rglob("*.html")
        for address in _LOADED.findall(page.read_text(encoding="utf-8"))
    }
    assert loaded == set()

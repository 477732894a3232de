"""The documents build as a site whose links all lead somewhere, without another server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_LOADED = re.compile(
    r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?(https?:[^"' >]+)"""
)


@pytest.mark.slow
def test_the_site_has_all_documents_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(site)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    pages = {path.parent.name for path in site.glob("*/index.html")}
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= pages
    assert (site / "repository" / "examples" / "last_item.py").is_file()
    loaded = {
        address
        for page in site.rglob("*.html")
        for address in _LOADED.findall(page.read_text(encoding="utf-8"))
    }
    assert loaded == set()

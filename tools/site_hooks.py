"""Hooks of mkdocs: pages from the root of the repository, and files that the documents link to."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
_DOCUMENT = re.compile(r"\]\(docs/")
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)\)")
_FOLDER = "repository"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, and each file outside docs/ that is linked to."""
    for source, page in _PAGES.items():
        text = (_ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_DOCUMENT.sub("](", text)))
    linked = {
        path
        for document in Path(config.docs_dir).glob("*.md")
        for path in _OUTSIDE.findall(document.read_text(encoding="utf-8"))
        if path not in _PAGES
    }
    for path in sorted(linked):
        source = str(_ROOT / path)
        files.append(File.generated(config, f"{_FOLDER}/{path}", abs_src_path=source))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to pages and files outside docs/ lead to their copies in the site."""
    for source, page in _PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return _OUTSIDE.sub(rf"]({_FOLDER}/\1)", markdown)

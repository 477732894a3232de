"""Headless chromium for tests and pictures, driven by Playwright."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


def chromium() -> str | None:
    """Return the path of chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path), None)


needs_chromium = pytest.mark.skipif(chromium() is None, reason="needs chromium")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run the installed chromium until the block ends."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium())
        try:
            yield running
        finally:
            running.close()

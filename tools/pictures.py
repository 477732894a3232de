"""Take the pictures of the documents: of the UI, the report and a terminal.

`make pictures` writes docs/images/*.webp. It runs the sample preset, which takes a few minutes, and
needs chromium.
"""

import argparse
import html
import io
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import click
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from mmctr_pipeline_tests.browser import browser
from mmctr_pipeline_tests.defs.dagster_pages import DagsterPages
from mmctr_pipeline_tests.defs.running import REPOSITORY, RUN_COMMAND, Deployment
from mmctr_pipeline_tests.defs.servers import webserver

IMAGES = REPOSITORY / "docs" / "images"
VARIABLES = {"MMCTR_PRESET": "sample", "MMCTR_DATA_DIR": "", "PYTHONUNBUFFERED": "1"}
"""Environment of `make demo`. Without a data folder, it uses the sample dataset."""
_DRAWN_MS = 3_000
"""Time for charts and animations to settle."""
_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #1b1e26; color: #dcdfe4; font: 15px/1.45 monospace; }
pre { margin: 0; padding: 18px 22px; width: max-content; font: inherit; }
b { color: #98c379; font-weight: normal; }
</style><pre><b>$ make demo</b>
"""


def save(png: bytes, name: str, width: int | None = None) -> None:
    """Write a screenshot, at most `width` pixels wide, as WebP without loss."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if width is not None and picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    path = IMAGES / f"{name}.webp"
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture.save(path, lossless=True, method=6)
    click.echo(f"{path.name}  {path.stat().st_size / 1000:.0f} kB")


def run_demo(deployment: Deployment) -> str:
    """Run the sample preset; return what it prints, without the path of the folder."""
    log = deployment.folder / "demo.txt"
    if not log.exists():
        click.echo("running the sample preset ...")
        environment = deployment.environment(**VARIABLES)
        run = subprocess.run(RUN_COMMAND, env=environment, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            raise SystemExit(run.stdout)
        log.write_text(run.stdout, encoding="utf-8")
    return log.read_text("utf-8").replace(f"{deployment.folder}{os.sep}", "")


def terminal(page: Page, text: str) -> None:
    """Take the last lines of the training and the summary as a terminal shows them."""
    progress, _, summary = text.partition("\nasset  ")
    steps = [line for line in progress.splitlines() if "trained_model  " in line]
    shown = [*(line[:116] for line in steps[-8:]), "...", "", f"asset  {summary.rstrip()}"]
    page.set_content(_TERMINAL + html.escape("\n".join(shown)))
    save(page.locator("pre").screenshot(), "terminal")


def graph(pages: DagsterPages) -> None:
    """Take the graph of all assets."""
    pages.page.set_viewport_size({"width": 3400, "height": 3400})
    pages.open_graph()
    pages.page.wait_for_timeout(_DRAWN_MS)
    boxes = [box for box in map(_box, pages.page.locator("foreignObject").all()) if box]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    clip = {"x": left - 20, "y": top - 20, "width": right - left + 40, "height": bottom - top + 40}
    save(pages.page.screenshot(clip=clip), "graph", width=1600)


def _box(node: Locator) -> tuple[float, float, float, float] | None:
    box = node.bounding_box()
    return box and (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])


def asset_pages(pages: DagsterPages) -> None:
    """Take the page of `trained_model`, one of its plots, and the checks of `train_dataset`."""
    pages.page.set_viewport_size({"width": 1400, "height": 1000})
    pages.open_asset("trained_model", last_key="configuration")
    pages.page.wait_for_timeout(_DRAWN_MS)
    pages.show_markdown("curve").locator("img").wait_for()
    pages.page.wait_for_timeout(_DRAWN_MS)
    save(pages.page.screenshot(), "asset")
    pages.open_checks("train_dataset")
    pages.page.wait_for_timeout(_DRAWN_MS)
    save(pages.page.screenshot(), "checks")


def report(chromium: Browser, path: Path) -> None:
    """Take the beginning of the report on a desktop, and on a phone in the dark."""
    looks: list[tuple[str, int, int, Literal["light", "dark"]]] = [
        ("report", 1280, 1100, "light"),
        ("report_phone", 390, 844, "dark"),
    ]
    for name, width, height, colours in looks:
        page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=colours)
        page.goto(path.as_uri())
        page.locator("[data-chart] svg").first.wait_for()
        page.wait_for_timeout(_DRAWN_MS)
        save(page.screenshot(), name)
        page.close()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser("make pictures", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="keep the run here, or use the one that is here"
    )
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        deployment = Deployment(Path(), (chosen or Path(temporary)).resolve())
        text = run_demo(deployment)
        with browser() as chromium:
            terminal(chromium.new_page(), text)
            report(chromium, deployment.storage / "latest_report.html")
            with webserver(deployment, **VARIABLES) as url:
                pages = DagsterPages(chromium.new_page(), url)
                graph(pages)
                asset_pages(pages)


if __name__ == "__main__":
    main()

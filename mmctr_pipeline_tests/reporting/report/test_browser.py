"""In a browser, charts are drawn, titles stay text, and axe-core finds nothing serious."""

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline.reporting.report.page import ModelReport
from mmctr_pipeline_tests.browser import needs_chromium
from mmctr_pipeline_tests.reporting.report.report_case import HOSTILE_TITLES, shown_by_browser

pytestmark = [pytest.mark.slow, needs_chromium]

POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
POINT_AT_ALL_ITEMS = """
setTimeout(() => {
  const map = document.querySelector("[data-chart=map]"), card = document.querySelector(".card");
  const box = map.getBoundingClientRect(), seen = new Set(), pictures = new Set();
  for (let x = 0; x < box.width; x += 6) for (let y = 0; y < box.height; y += 6) {
    const place = {clientX: box.left + x, clientY: box.top + y, bubbles: true};
    map.dispatchEvent(new PointerEvent("pointermove", place));
    if (!card.hidden) {
      seen.add(card.querySelector("p").textContent);
      const picture = card.querySelector("img");
      if (picture) { pictures.add(picture.src.slice(0, 23)); }
    }
  }
  report({seen: [...seen], pictures: [...pictures], elements: card.querySelectorAll("*").length});
}, 3000);
"""
RUN_AXE = """
setTimeout(async () => {
  for (const each of document.querySelectorAll("details")) { each.open = true; }
  const found = await axe.run(document);
  report(found.violations.map((each) => [each.impact, each.id, each.nodes[0].html]));
}, 3000);
"""
REPORT = """
function report(value) {
  const element = document.createElement("pre");
  element.id = "probe";
  element.textContent = JSON.stringify(value);
  document.body.append(element);
}
"""


def probed(
    report: ModelReport, path: Path, script: str, width: int = 1280, dark: bool = False
) -> tuple[str, Any]:
    """Open the page without its policy and with a script added; return document and finding."""
    text, n_policies = POLICY.subn("", report.html)
    assert n_policies == 1
    before, end, after = text.rpartition("</body>")
    path.write_text(f"{before}<script>{REPORT}{script}</script>{end}{after}")
    shown = shown_by_browser(path, width, dark)
    probe = re.search(r'<pre id="probe">(.*?)</pre>', shown, re.DOTALL)
    assert probe is not None, "the probe did not run"
    return shown, json.loads(html.unescape(probe[1]))


def test_under_its_own_policy_all_charts_and_covers_are_drawn(
    report: ModelReport, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(report.html)
    shown = shown_by_browser(path, width=500)  # chromium has no narrower windows
    assert POLICY.search(shown)
    assert "data-hacked" not in shown
    charts = re.findall(r'<div [^>]*data-chart="\w+"[^>]*>(.{400})', shown, re.DOTALL)
    assert len(charts) == 7
    for chart in charts:
        width = re.search(r'<svg [^>]*width="(\d+)', chart)
        assert width is not None, chart
        assert 250 < int(width[1]) < 500, "a chart is wider than the window"
    covers = re.findall(r"<img data-cover[^>]*>", shown)
    assert covers
    assert all('src="data:image/jpeg;base64,' in each for each in covers)


def test_no_title_runs_as_a_script_even_without_the_policy_and_the_map_shows_titles_as_text(
    report: ModelReport, tmp_path: Path
) -> None:
    shown, found = probed(report, tmp_path / "page.html", POINT_AT_ALL_ITEMS)
    assert "data-hacked" not in shown
    assert set(HOSTILE_TITLES) <= set(found["seen"])
    assert found["pictures"] == ["data:image/jpeg;base64,"]
    assert found["elements"] == 2, "a title became elements"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_axe_finds_nothing_serious(
    report: ModelReport, tmp_path: Path, width: int, dark: bool
) -> None:
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")
    script = axe.replace("</script", "<\\/script") + RUN_AXE
    shown, violations = probed(report, tmp_path / "page.html", script, width, dark)
    assert shown.count("<svg") >= 7
    assert [each for each in violations if each[0] in ("serious", "critical")] == []

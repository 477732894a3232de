"""Dagster's pages in a browser, used as a person does: open, click, read."""

import re

from playwright.sync_api import Locator, Page, expect

_LOADS_MS = 120_000
"""A busy machine takes long for the first page: the code location is loaded for it."""
_RUN_MS = 400_000


class DagsterPages:
    """The pages of a webserver, shown in `page` one after the other."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        page.set_default_timeout(_LOADS_MS)

    def open_graph(self) -> None:
        """Open the graph of all assets."""
        self.page.goto(f"{self.url}/asset-groups")
        self.node("champion").wait_for(state="attached")
        loading = self.page.locator("foreignObject").get_by_text("Loading")
        expect(loading).to_have_count(0, timeout=_LOADS_MS)

    def node(self, asset: str) -> Locator:
        """Return the box of an asset in the graph."""
        return self.page.locator("foreignObject").filter(
            has=self.page.get_by_text(asset, exact=True)
        )

    def materialize_all(self) -> None:
        """In the graph, click "Materialize all", and in the message "Launched run", "View"."""
        self.page.get_by_role("button", name="Materialize all").click()
        self.page.get_by_text("Launched run").wait_for()
        self.page.get_by_text("View", exact=True).click()
        self.page.wait_for_url(re.compile("/runs/"))

    def wait_for_the_end(self) -> str:
        """On the page of a run, wait until it ends; return `Success`, `Failure` or `Canceled`."""
        end = self.page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        end.wait_for(timeout=_RUN_MS)
        return end.inner_text()

    def open_asset(self, asset: str, last_key: str) -> None:
        """Open the page of an asset; wait for the row `last_key` of its metadata."""
        self.page.goto(f"{self.url}/assets/{asset}")
        self.page.get_by_text(last_key, exact=True).wait_for()

    def show_markdown(self, key: str) -> Locator:
        """On the page of an asset, open the Markdown of a row; return the dialog."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(key, exact=True))
        row.get_by_text("[Show Markdown]").click()
        dialog = self.page.get_by_role("dialog")
        dialog.wait_for()
        return dialog

    def open_checks(self, asset: str) -> dict[str, str]:
        """Open the checks of an asset; return the status shown below the name of each."""
        self.page.goto(f"{self.url}/assets/{asset}?view=checks")
        self.page.get_by_text("Latest execution").wait_for()
        statuses = self.page.get_by_text(re.compile("^(Succeeded|Failed|Missing)$"))
        statuses.first.wait_for()
        # Each name is there twice, once as a tooltip.
        lines = [each.locator("xpath=../..").inner_text().split() for each in statuses.all()]
        return {words[0]: words[-1] for words in lines}

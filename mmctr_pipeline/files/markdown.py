"""Markdown from texts that the pipeline did not write: titles, names, error messages."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

_HIDDEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and characters that change the direction of the text after them."""

_ACTIVE = re.compile(
    r"[\\`*~|$@]"  # code, emphasis, table cells, formulas, mail addresses
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis, but not snake_case
    r"|!(?=\[)|\](?=[(\[:])"  # images, links and their targets
    r"|(?<=:)/(?=/)|(?<=\bwww)\."  # bare URLs
    r"|^#|^[+\-](?=\s)|^[=\-:](?=[=\-:]*$)|^\d+[.)](?=\s|$)"  # headings, lists, rules
)


def on_one_line(value: Any) -> str:
    """Return text on one line, without control characters and changes of direction."""
    return " ".join(_HIDDEN.sub("", str(value)).split())


def escaped(value: Any) -> str:
    """Return text that Markdown shows as it is: on one line, no markup, no HTML."""
    text = on_one_line(value)
    return _ACTIVE.sub(
        lambda found: f"{found[0][:-1]}\\{found[0][-1]}", html.escape(text, quote=False)
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """Return a Markdown table. Cells with text that others wrote must already be `escaped`.

    `align` has an `l` or `r` for each column.
    """
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return tabulate(rows, headers, tablefmt="pipe", colalign=sides, disable_numparse=True)

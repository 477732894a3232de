"""The table of faults in docs/reliability.md names only tests that exist."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "reliability.md"
TEST = re.compile(r"([\w/.-]+\.py)?::(test_\w+)")
"""A file and a test. The file may be omitted if it is that of the test named before."""


def faults() -> list[tuple[int, str, str]]:
    """Return the line number, the fault and the last column of each row of the table."""
    rows = []
    for number, line in enumerate(TABLE.read_text(encoding="utf-8").splitlines(), start=1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if line.startswith("|") and "::" in cells[-1]:
            rows.append((number, cells[0], cells[-1]))
    return rows


@functools.cache
def function_names(path: Path) -> set[str]:
    """Return the names of the functions and methods of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def problems() -> Iterator[str]:
    """Yield what is wrong with each row."""
    for number, fault, tests in faults():
        named = TEST.findall(tests)
        if tests.count("::") != len(named):
            yield f"line {number} ({fault}): write each test as path::test_name: {tests}"
        path = ""
        for own_path, name in named:
            path = own_path or path
            file = TESTS / path
            if not file.is_file():
                yield f"line {number} ({fault}): no test file {path!r}"
            elif name not in function_names(file):
                yield f"line {number} ({fault}): {path} has no {name}"


def test_every_fault_names_tests_that_exist() -> None:
    assert list(problems()) == []


def test_the_table_has_at_least_120_distinct_faults() -> None:
    named = [fault for _, fault, _ in faults()]
    assert len(set(named)) == len(named), "a fault is in two rows"
    assert len(named) >= 120


def test_tests_are_named_only_in_rows_that_are_checked() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert text.count("::test_") == sum(tests.count("::") for _, _, tests in faults())

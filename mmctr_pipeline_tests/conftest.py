"""Set-up of all tests: environment variables, skipped tests and the sample dataset."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

for variable in [name for name in os.environ if name.startswith("MMCTR_")]:
    # Tests set their own variables; a developer's deployment must not leak in.
    del os.environ[variable]

SKIPPED_BENCH: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-skipped-bench",
        action="store_true",
        help="fail if a test marked bench is skipped; then the bench extra is missing or broken",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True, scope="module")
def _root_logger_as_before() -> Iterator[None]:
    """Undo what benchmarks, examples and documents do to the root logger, as they own a process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    yield
    root.setLevel(level)
    for handler in root.handlers.copy():
        if handler not in handlers:
            root.removeHandler(handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "bench" in report.keywords:
        SKIPPED_BENCH.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--fail-on-skipped-bench") and SKIPPED_BENCH:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("--fail-on-skipped-bench") and SKIPPED_BENCH:
        terminalreporter.write_line(
            f"FAILED: tests of the bench extra were skipped: {', '.join(SKIPPED_BENCH)}", red=True
        )


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample dataset of a few hundred items with images."""
    from mmctr_pipeline.sample.config import SampleConfig
    from mmctr_pipeline.sample.write import generate_sample

    folder = tmp_path_factory.mktemp("sample")
    generate_sample(SampleConfig.scaled(0.15), folder)
    return folder

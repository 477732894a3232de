"""One report, drawn once for the tests of its page."""

import pytest

from mmctr_pipeline.reporting.report.inputs import ReportInputs
from mmctr_pipeline.reporting.report.page import ModelReport, build_report
from mmctr_pipeline_tests.reporting.report.report_case import report_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    return report_inputs(tmp_path_factory.mktemp("covers"))


@pytest.fixture(scope="session")
def report(inputs: ReportInputs) -> ModelReport:
    return build_report(inputs)

"""Files for the drawn nights."""

import pytest

from mmctr_pipeline.data.discovery import DataLayout
from mmctr_pipeline_tests.monitoring.drawn_nights import write_files


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> DataLayout:
    return write_files(tmp_path_factory.mktemp("drawn_nights"))

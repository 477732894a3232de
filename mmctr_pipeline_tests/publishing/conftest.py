"""An S3 server for the tests of a module, and one empty store in it for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline.publishing.store import ObjectStore
from mmctr_pipeline_tests.publishing.s3_server import BUCKET, S3Server, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty folder of the bucket, and the variables that lead to the server."""
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def objects(server: S3Server, tmp_path: Path) -> Path:
    """The folder with the objects of `s3` as files."""
    return server.folder / tmp_path.name


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store: in a bucket, or in a folder of this machine."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return ObjectStore(f"file://{tmp_path / 'backup'}")

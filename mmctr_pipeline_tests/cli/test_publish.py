"""`mmctr push` and `mmctr pull` name what is wrong in one line and never print credentials."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmctr_pipeline.cli.main import main
from mmctr_pipeline_tests.hidden_packages import hide_packages
from mmctr_pipeline_tests.publishing.artefact_files import contents, write_artefacts, write_vectors
from mmctr_pipeline_tests.publishing.s3_server import KEY_ID, SECRET, S3Server, s3_server

Mmctr = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def mmctr(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mmctr:
    """Run the command with the variables of a machine; return status, output and errors."""

    def run(*arguments: str, storage: Path, **variables: str) -> tuple[int, str, str]:
        places = {"MMCTR_PUBLISH_URL": server.url, "MMCTR_STORAGE_DIR": str(storage)}
        for name, value in {**server.variables, **places, **variables}.items():
            monkeypatch.setenv(name, value)
        status = main(arguments)
        printed = capsys.readouterr()
        for secret in (KEY_ID, SECRET, "wrong-5d1c"):
            assert secret not in printed.out + printed.err
        return status, printed.out, printed.err

    return run


def test_artefacts_travel_from_one_machine_to_another(mmctr: Mmctr, tmp_path: Path) -> None:
    storage, fresh = write_artefacts(tmp_path / "storage"), tmp_path / "fresh"
    url = "s3://artefacts/travel"
    status, out, _ = mmctr("push", storage=storage, MMCTR_PUBLISH_URL=f"{url}/")
    assert status == 0
    assert out.startswith(f"published at {url}: text_embeddings, image_embeddings, fused_pca, ")
    status, out, _ = mmctr("pull", storage=fresh, MMCTR_PUBLISH_URL=url)
    assert status == 0
    assert out.startswith(f"{fresh} has what was published at {url}: text_embeddings, ")
    assert contents(fresh) == contents(storage)
    assert mmctr("pull", "champion", storage=tmp_path / "model", MMCTR_PUBLISH_URL=url)[0] == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        *("best_model.pt", "champion.json", "contest.json", "models"),
    ]


FAULTS = {
    "no such bucket": (
        {"MMCTR_PUBLISH_URL": "s3://no-such-bucket/x"},
        "The specified bucket does not exist. Fix: create the bucket, or correct MMCTR_PUBLISH_URL",
    ),
    "wrong secret": (
        {"AWS_SECRET_ACCESS_KEY": "wrong-5d1c"},
        "Fix: give credentials that may list, read, write and delete there; for S3, ",
    ),
    "unknown key": (
        {"AWS_ACCESS_KEY_ID": "wrong-5d1c"},
        "Fix: give credentials that may list, read, write and delete there; for S3, ",
    ),
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "Unable to locate credentials. Fix: give credentials that may list, ",
    ),
    "no server": (
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        "Fix: check MMCTR_PUBLISH_URL and that the store can be reached; for S3, AWS_ENDPOINT_URL",
    ),
    "unknown scheme": ({"MMCTR_PUBLISH_URL": "carrier-pigeon://x/y"}, "carrier-pigeon"),
    "a password in the URL": (
        {"MMCTR_PUBLISH_URL": "s3://someone:wrong-5d1c@artefacts/x"},
        "MMCTR_PUBLISH_URL holds '@' or '?', and so perhaps a password",
    ),
    "no URL": ({"MMCTR_PUBLISH_URL": "/mnt/backup"}, "which is not a URL such as s3://"),
    "unset": ({"MMCTR_PUBLISH_URL": ""}, "MMCTR_PUBLISH_URL is not set. Fix: set it"),
}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        *(("push", fault) for fault in FAULTS if fault != "no server"),
        pytest.param("push", "no server", marks=pytest.mark.slow),  # it waits for answers
        *(("pull", fault) for fault in ("no such bucket", "wrong secret", "unset")),
    ],
)
def test_a_store_that_cannot_be_used_is_named_in_one_line(
    command: str, fault: str, mmctr: Mmctr, tmp_path: Path
) -> None:
    write_vectors(tmp_path, "text_embeddings", 0)
    changes, message = FAULTS[fault]
    if (command, fault) == ("pull", "no such bucket"):
        message = "nothing was published at s3://no-such-bucket/x"
    status, _, errors = mmctr(command, storage=tmp_path, **changes)
    assert status == 2
    [line] = errors.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_missing_client_is_named_with_the_extra_that_installs_it(tmp_path: Path) -> None:
    code = hide_packages("s3fs") + (
        "from mmctr_pipeline.cli.main import main; sys.exit(main(['push']))"
    )
    places = {"MMCTR_PUBLISH_URL": "s3://artefacts/x", "MMCTR_STORAGE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.endswith("Fix: install s3fs (the extra s3 of this package)")


def test_there_must_be_something_to_publish(mmctr: Mmctr, tmp_path: Path) -> None:
    assert "has no artefacts to publish" in mmctr("push", storage=tmp_path)[2]
    assert "has no fused_pca. Fix: materialise" in mmctr("push", "fused_pca", storage=tmp_path)[2]

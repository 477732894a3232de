"""The services of deploy/single_host run a pipeline, recorded in PostgreSQL and published to S3."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmctr_pipeline.publishing.artefacts import ARTEFACTS
from mmctr_pipeline.publishing.fetch import fetch
from mmctr_pipeline.publishing.store import ObjectStore
from mmctr_pipeline_tests.defs.running import PRESET, REPOSITORY
from mmctr_pipeline_tests.defs.test_definitions import CHECKS
from mmctr_pipeline_tests.defs.test_webserver import LAUNCH, STATUS, Webserver
from mmctr_pipeline_tests.deploy import dockerfile
from mmctr_pipeline_tests.deploy.compose import Services, read_compose
from mmctr_pipeline_tests.deploy.postgres import Postgres, postgres_binaries, postgres_server
from mmctr_pipeline_tests.ports import free_port
from mmctr_pipeline_tests.publishing.s3_server import KEY_ID, SECRET, S3Server, s3_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL is not installed"),
]

FOLDER = REPOSITORY / "deploy" / "single_host"
PASSWORD = "p@ss/word:of?the#tests 5d1c"
RUN_SECONDS = 900


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    binaries = postgres_binaries()
    assert binaries is not None
    with postgres_server(binaries, "dagster", PASSWORD, "dagster") as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def services(
    postgres: Postgres,
    server: S3Server,
    small_sample: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Services]:
    root = tmp_path_factory.mktemp("single_host")
    (root / "preset.yaml").write_text(PRESET)
    env_file = {
        "DAGSTER_POSTGRES_PASSWORD": PASSWORD,
        "MMCTR_DATA_DIR": str(small_sample),
        "MMCTR_PRESET": str(root / "preset.yaml"),
        "MMCTR_DEVICE": "cpu",
        "MMCTR_PUBLISH_URL": server.url,
        **server.variables,
    }
    compose = read_compose(FOLDER / "compose.yaml", env_file)
    places = {
        "/opt/mmctr/dagster": str(root / "dagster"),
        "/var/lib/mmctr": str(root / "volume"),
        "/data": str(small_sample),
        "host: code": "host: 127.0.0.1",
        "0.0.0.0": "127.0.0.1",
        "5432": str(postgres.port),
        "4000": str(free_port()),
        "3000": str(free_port()),
    }
    # A container has the variables of the image, not those of this machine.
    image = dockerfile.environment(REPOSITORY / "Dockerfile")
    for inherited in ("VIRTUAL_ENV", "PATH"):
        image.pop(inherited)
    environment = {
        **{name: os.environ[name] for name in ("HOME", "PYTHONPATH") if name in os.environ},
        **image,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    (root / "logs").mkdir()
    services = Services(compose, FOLDER, environment, env_file, places, root / "logs")
    with contextlib.ExitStack() as stack:
        stack.callback(services.stop)
        for name in ("webserver", "daemon"):
            services.start(name)
        for name in ("webserver", "daemon"):
            services.wait_until_healthy(name)
        yield services


@pytest.fixture(scope="module")
def run_id(services: Services) -> str:
    """The id of a run of the whole pipeline that was launched through the webserver."""
    webserver = Webserver(f"http://127.0.0.1:{services.places['3000']}")
    selector = {
        "repositoryLocationName": "mmctr_pipeline",
        "repositoryName": "__repository__",
        "jobName": "full_pipeline",
    }
    params = {"selector": selector, "mode": "default"}
    launched = webserver.query(LAUNCH, params=params)["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = launched["run"]["runId"]
    deadline = time.monotonic() + RUN_SECONDS
    status = ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, services.log("code")
        time.sleep(1)
        status = webserver.query(STATUS, runId=run_id)["runOrError"]["status"]
    assert status == "SUCCESS", services.log("code")
    return run_id


def test_a_run_launched_in_the_webserver_is_recorded_in_postgres(
    run_id: str, services: Services, postgres: Postgres
) -> None:
    assert postgres.rows("SELECT status FROM runs WHERE run_id = %s", run_id) == [("SUCCESS",)]
    materialised = postgres.rows(
        "SELECT DISTINCT asset_key FROM event_logs "
        "WHERE run_id = %s AND dagster_event_type = 'ASSET_MATERIALIZATION'",
        run_id,
    )
    assert {key for (key,) in materialised} == {f'["{name}"]' for name in ARTEFACTS}
    checked = postgres.rows(
        "SELECT asset_key, check_name, execution_status FROM asset_check_executions "
        "WHERE run_id = %s",
        run_id,
    )
    assert {(key, name): status for key, name, status in checked} == {
        (f'["{asset}"]', name): "SUCCEEDED" for asset, names in CHECKS.items() for name in names
    }


def test_the_documented_query_tells_the_hours_since_the_last_success(
    run_id: str, postgres: Postgres
) -> None:
    text = (REPOSITORY / "docs" / "deploy.md").read_text()
    query = text.partition("```sql")[2].partition("```")[0]
    [(hours,)] = postgres.rows(query)
    assert 0 <= hours < 1


def test_a_dump_of_the_database_restores_the_run(
    run_id: str, postgres: Postgres, tmp_path: Path
) -> None:
    binaries = postgres_binaries()
    assert binaries is not None
    environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGHOST": "127.0.0.1"}
    place = ("-p", str(postgres.port), "-U", "dagster")
    dump = tmp_path / "dagster.dump"
    for command in (
        ("pg_dump", *place, "-Fc", "-f", str(dump), "dagster"),
        ("createdb", *place, "restored"),
        ("pg_restore", *place, "-d", "restored", str(dump)),
    ):
        subprocess.run([binaries / command[0], *command[1:]], env=environment, check=True)
    restored = dataclasses.replace(postgres, database="restored")
    counted = "SELECT count(*) FROM event_logs WHERE run_id = %s"
    assert restored.rows(counted, run_id) == postgres.rows(counted, run_id)


def test_artefacts_and_logs_are_in_the_volume_and_no_database_is(
    run_id: str, services: Services
) -> None:
    volume = Path(services.places["/var/lib/mmctr"])
    assert (volume / "storage" / "submission.csv").is_file()
    assert list((volume / "dagster" / "logs").rglob("*.err"))
    home = Path(services.places["/opt/mmctr/dagster"])
    assert sorted(path.name for path in home.iterdir()) == ["dagster.yaml", "workspace.yaml"]
    assert list(volume.rglob("*.db")) == []


def test_what_the_run_made_can_be_fetched_from_the_object_store(
    run_id: str,
    services: Services,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    fetched = fetch(tmp_path, ObjectStore(server.url))
    assert {artefact.name for artefact in fetched} == set(ARTEFACTS)
    storage = Path(services.places["/var/lib/mmctr"]) / "storage"
    for path in (
        "best_model.pt",
        "fused_pca.parquet",
        "prediction.zip",
        "train_dataset/items.parquet",
    ):
        assert (tmp_path / path).read_bytes() == (storage / path).read_bytes()


def test_nothing_prints_or_records_a_password_or_a_key(
    run_id: str, services: Services, postgres: Postgres
) -> None:
    logs = [*services.logs.iterdir(), *Path(services.places["/var/lib/mmctr"]).rglob("*.err")]
    texts = [path.read_text(errors="replace") for path in logs]
    texts += [str(row) for row in postgres.rows("SELECT event FROM event_logs")]
    texts += [str(row) for row in postgres.rows("SELECT run_body FROM runs")]
    for secret in (PASSWORD, SECRET, KEY_ID):
        assert not any(secret in text for text in texts)


def test_the_services_end_by_themselves_when_they_are_stopped(
    run_id: str, services: Services
) -> None:
    # The last test of the module, as the others need the services.
    assert services.stop() == {"migrate": 0, "code": 0, "webserver": 0, "daemon": 0}

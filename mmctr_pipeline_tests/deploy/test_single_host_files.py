"""The files of deploy/single_host are valid, hold no secret, and agree with each other."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmctr_pipeline_tests.defs.running import REPOSITORY
from mmctr_pipeline_tests.deploy import dockerfile
from mmctr_pipeline_tests.deploy.compose import interpolated, read_compose

FOLDER = REPOSITORY / "deploy" / "single_host"
DOCKERFILE = REPOSITORY / "Dockerfile"
VARIABLES = {
    "DAGSTER_POSTGRES_PASSWORD": "a-password",
    "MMCTR_DATA_DIR": "/srv/clicks",
    "MMCTR_PRESET": "din",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose(FOLDER / "compose.yaml", VARIABLES)


def test_the_compose_files_follow_the_compose_specification(tmp_path: Path) -> None:
    def check(*files: Path) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / "check-jsonschema"
        command = [program, "--builtin-schema", "vendor.compose-spec", *files]
        return subprocess.run(command, capture_output=True, text=True)

    result = check(FOLDER / "compose.yaml", FOLDER / "compose.gpu.yaml")
    assert result.returncode == 0, result.stdout
    # It notices a key that does not exist.
    broken = (FOLDER / "compose.yaml").read_text().replace("healthcheck:", "healthchek:")
    (tmp_path / "compose.yaml").write_text(broken)
    assert "healthchek" in check(tmp_path / "compose.yaml").stdout


@pytest.mark.parametrize("name", VARIABLES)
def test_a_required_variable_that_is_not_set_stops_compose(name: str) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    with pytest.raises(KeyError, match=f"{name}: set it in .env"):
        interpolated(text, {**VARIABLES, name: ""})


def test_the_example_of_the_variables_has_all_that_compose_reads() -> None:
    example = (FOLDER / ".env.example").read_text()
    read = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    assert read <= set(re.findall(r"^(?:# )?(\w+)=", example, re.MULTILINE))
    # It holds no value that a user might leave as it is.
    secret = re.findall(r"^(?:# )?\w*(?:PASSWORD|KEY\w*|SECRET|TOKEN)=(.*)$", example, re.MULTILINE)
    assert len(secret) == 3
    assert set(secret) == {""}


def test_only_this_host_reaches_the_webserver_and_nothing_else_is_published(
    compose: dict[str, Any],
) -> None:
    published = {name: service.get("ports") for name, service in compose["services"].items()}
    assert published.pop("webserver") == ["127.0.0.1:3000:3000"]
    assert set(published.values()) == {None}


def test_every_lasting_service_restarts_and_has_a_health_check(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "migrate":
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["test"][0] == "CMD"


def test_only_the_code_server_gets_the_credentials_of_the_store(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "env_file" in service] == [
        "code"
    ]
    gpu = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())
    assert list(gpu["services"]) == ["code"]


def test_the_code_server_is_started_as_the_image_does_it(compose: dict[str, Any]) -> None:
    assert compose["services"]["code"]["command"] == dockerfile.command(DOCKERFILE)


def test_the_instance_differs_from_that_of_the_checkout_only_in_its_places() -> None:
    deployed = yaml.safe_load((FOLDER / "dagster.yaml").read_text())
    local = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    places = ("storage", "compute_logs", "local_artifact_storage")
    assert {name for name in deployed if name not in local} == {*places}
    # One run at a time, which is more than the limit of one run for a storage folder.
    assert deployed["concurrency"].pop("runs") == {"max_concurrent_runs": 1}
    local["concurrency"].pop("runs")
    assert {name: deployed[name] for name in local} == local
    database = deployed["storage"]["postgres"]["postgres_db"]
    assert database["password"] == {"env": "DAGSTER_POSTGRES_PASSWORD"}


def test_the_image_does_not_run_as_root() -> None:
    users = [i.rest for i in dockerfile.instructions(DOCKERFILE) if i.name == "USER"]
    assert users == ["10001"]

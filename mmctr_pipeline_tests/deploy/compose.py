"""Runs the services of a compose file as processes of this machine, without containers.

Folders and ports of the containers are replaced by those of a test. Services start in the order of
their `depends_on`, after its conditions, which their health checks decide.
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

TIMEOUT_SECONDS = 300
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}` and `${NAME:?message}` as compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        found = variables.get(name, "")
        if kind == ":?" and not found:
            raise KeyError(f"{name}: {rest}")
        return found or (rest if kind == ":-" else "") or ""

    return _VARIABLE.sub(value, text)


def read_compose(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a compose file and fill in its variables."""
    return yaml.safe_load(interpolated(path.read_text(), variables))


@dataclasses.dataclass
class Services:
    """The services of a compose file as processes.

    Parameters
    ----------
    compose
        The content of the file.
    folder
        Where the file is; sources of bind mounts are relative to it.
    environment
        Environment variables of every process.
    env_file
        The variables of `.env`, for services that name it as their `env_file`.
    places
        Texts of the containers, such as folders and ports, and what stands for them here. Longer
        ones are replaced first.
    logs
        Folder for the output of the processes.
    """

    compose: dict[str, Any]
    folder: Path
    environment: Mapping[str, str]
    env_file: Mapping[str, str]
    places: Mapping[str, str]
    logs: Path
    processes: dict[str, "subprocess.Popen[bytes]"] = dataclasses.field(default_factory=dict)

    def here(self, text: str) -> str:
        """Replace what differs between a container and this machine."""
        pattern = "|".join(map(re.escape, sorted(self.places, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.])(?:{pattern})(?!\w)", lambda m: self.places[m[0]], text)

    def start(self, name: str) -> None:
        """Start a service after those that it depends on."""
        if name in self.processes:
            return
        service = self.compose["services"][name]
        for needed, rule in service.get("depends_on", {}).items():
            if (
                needed not in self.compose["services"]
                or "command" not in (self.compose["services"][needed])
            ):
                continue  # a server that the test runs itself
            self.start(needed)
            self._wait_for(needed, rule["condition"])
        self._mount(service)
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [self.here(word) for word in service["command"]],
                env=self._environment(service),
                cwd=self.logs,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Background processes of a shell ignore SIGINT, and would pass that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def wait_until_healthy(self, name: str) -> None:
        """Wait until the health check of a service succeeds."""
        self._wait_for(name, "service_healthy")

    def log(self, name: str) -> str:
        """Return the end of the output of a service."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-6000:]

    def stop(self) -> dict[str, int | None]:
        """End all processes as `docker compose stop` does; return exit statuses by service.

        A process that does not end within its `stop_grace_period` is killed; its status is None.
        """
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        start = time.monotonic()
        statuses: dict[str, int | None] = {}
        for name, process in self.processes.items():
            period = self.compose["services"][name].get("stop_grace_period", "10s")
            try:
                end = start + float(period.removesuffix("s"))
                statuses[name] = process.wait(max(end - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                statuses[name] = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return statuses

    def _environment(self, service: dict[str, Any]) -> dict[str, str]:
        env_file = self.env_file if "env_file" in service else {}
        variables = {**self.environment, **env_file, **service["environment"]}
        return {
            # The name of a service is the address of its container.
            name: "127.0.0.1" if value in self.compose["services"] else self.here(str(value))
            for name, value in variables.items()
        }

    def _mount(self, service: dict[str, Any]) -> None:
        for mount in service["volumes"]:
            source, target = mount.split(":")[:2]
            if source.startswith("./"):
                place = Path(self.here(target))
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(self.here((self.folder / source).read_text()))

    def _wait_for(self, name: str, condition: str) -> None:
        process, service = self.processes[name], self.compose["services"][name]
        deadline = time.monotonic() + TIMEOUT_SECONDS
        if condition == "service_completed_successfully":
            assert process.wait(TIMEOUT_SECONDS) == 0, self.log(name)
            return
        kind, *check = service["healthcheck"]["test"]
        assert kind == "CMD"
        command = [self.here(word) for word in check]
        environment = self._environment(service)
        while subprocess.run(command, env=environment, capture_output=True).returncode != 0:
            assert process.poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(1)

"""Starts Dagster's servers in tests, and ends all their processes afterwards."""

import contextlib
import dataclasses
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg

from mmctr_pipeline_tests.defs.running import REPOSITORY, Deployment
from mmctr_pipeline_tests.ports import free_port

BIN = Path(sys.executable).parent
WORKSPACE = ("-w", str(REPOSITORY / "workspace.yaml"))


@contextlib.contextmanager
def server(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; then kill it and all its child processes.

    They are killed too if pytest itself is killed.
    """
    with (
        log.open("w") as output,
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
        # `cat` ends when the pipe closes: at the end of the block, or when pytest dies.
        subprocess.Popen(
            ["sh", "-c", f"cat; kill -KILL -{process.pid}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ),
    ):
        yield process


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_seconds: float = 120.0,
) -> None:
    """Wait for a condition; fail with the log if the process has ended, or after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


@dataclasses.dataclass(frozen=True)
class Daemon:
    """A running dagster-daemon, which starts queued and scheduled runs as `make ui` does."""

    instance: dg.DagsterInstance
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def finished_runs(self, job: str, n_runs: int, timeout_seconds: float) -> list[dg.RunRecord]:
        """Wait for the first `n_runs` runs of a job to end; return all its runs, oldest first."""

        def records() -> list[dg.RunRecord]:
            return self.instance.get_run_records(dg.RunsFilter(job_name=job), ascending=True)

        def are_finished() -> bool:
            runs = [record.dagster_run for record in records()[:n_runs]]
            return len(runs) == n_runs and all(run.is_finished for run in runs)

        wait_until(are_finished, self.process, self.log, timeout_seconds)
        return records()


@contextlib.contextmanager
def daemon(deployment: Deployment, **variables: str) -> Iterator[Daemon]:
    """Run dagster-daemon in a deployment until the block ends."""
    environment, log = deployment.environment(**variables), deployment.folder / "daemon.log"
    command = [str(BIN / "dagster-daemon"), "run", *WORKSPACE]
    with (
        # Creates the database. The daemon and a command that did so at once would fail.
        dg.DagsterInstance.from_config(str(deployment.home)) as instance,
        server(command, environment, log) as process,
    ):
        yield Daemon(instance, environment, process, log)


@contextlib.contextmanager
def webserver(deployment: Deployment, **variables: str) -> Iterator[str]:
    """Run webserver and daemon as `make ui` does until the block ends; yield their address."""
    log, port = deployment.folder / "webserver.log", free_port()
    url = f"http://127.0.0.1:{port}"
    # Runs are queued; the daemon, which `dagster dev` starts too, launches them.
    command = [str(BIN / "dagster"), "dev", "-p", str(port), "-h", "127.0.0.1", *WORKSPACE]

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"{url}/server_info", timeout=5).read()
        except OSError:
            return False
        return True

    with server(command, deployment.environment(**variables), log) as process:
        wait_until(answers, process, log, timeout_seconds=300)
        yield url

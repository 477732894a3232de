"""A stand-in for a Kubernetes cluster: the part of its API that dagster-k8s uses, over HTTP.

Each job that is created is checked as the API server would check it, and its container then runs as
a process of this machine, with the variables that its config maps and secrets give it.
"""

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

NAMESPACE = "mmctr"
_PATH = re.compile(rf"/(?:api|apis/batch)/v1/namespaces/{NAMESPACE}/(\w+)(?:/([\w.-]+))?(/status)?")


class Cluster:
    """The jobs of one namespace.

    Parameters
    ----------
    variables
        Environment variables of each config map and secret, by kind and name.
    environment
        Variables of every process.
    logs
        Folder for the output of the processes.
    check
        Raises an error for a job that the API server would refuse.
    """

    def __init__(
        self,
        variables: Mapping[tuple[str, str], Mapping[str, str]],
        environment: Mapping[str, str],
        logs: Path,
        check: Callable[[dict[str, Any]], None],
    ) -> None:
        self.variables = variables
        self.environment = environment
        self.logs = logs
        self.check = check
        self.jobs: dict[str, dict[str, Any]] = {}
        self.refused: list[str] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, container: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        """Run a container of a pod as a process."""
        sources = [
            (kind, source[field]["name"])
            for source in container.get("envFrom", [])
            for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret"))
            if field in source
        ]
        own = {entry["name"]: entry["value"] for entry in container.get("env") or []}
        environment = dict(self.environment)
        for source in sources:
            environment |= self.variables[source]
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                container["args"],
                env=environment | own,
                cwd=self.logs,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Background processes of a shell ignore SIGINT, and would pass that on.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._processes[name] = process
        return process

    def log(self, name: str) -> str:
        """Return the end of the output of a container."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-6000:]

    def stop(self) -> None:
        """Kill every process."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request to the API."""
        url = urllib.parse.urlsplit(path)
        match = _PATH.fullmatch(url.path)
        if match is None:
            return 404, _status(404, f"{method} {path} is not part of this stand-in")
        kind, name, _ = match.groups()
        if (method, kind, name) == ("POST", "jobs", None):
            return self._create(json.loads(body))
        if kind == "jobs" and name is not None:
            if name not in self.jobs:
                return 404, _status(404, f"there is no job {name}")
            if method == "DELETE":
                os.killpg(self._processes[name].pid, signal.SIGKILL)
            return 200, self._with_status(name)
        if (method, name) == ("GET", None):
            return 200, {"kind": "List", "apiVersion": "v1", "items": []}
        return 404, _status(404, f"{method} {path} is not part of this stand-in")

    def _create(self, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            self.check(job)
        except Exception as error:
            self.refused.append(str(error))
            return 422, _status(422, str(error))
        name = job["metadata"]["name"]
        self.jobs[name] = job
        [container] = job["spec"]["template"]["spec"]["containers"]
        self.start(name, container)
        return 201, self._with_status(name)

    def _with_status(self, name: str) -> dict[str, Any]:
        code = self._processes[name].poll()
        counts = {"active": code is None, "succeeded": code == 0, "failed": code not in (None, 0)}
        status = {key: int(value) for key, value in counts.items() if value}
        return {**self.jobs[name], "status": status}


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}


@contextlib.contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """Serve the API of a cluster on a port of this machine, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, content = cluster.answer(self.command, self.path, body)
            text = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

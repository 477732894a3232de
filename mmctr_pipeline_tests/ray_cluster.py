"""A real Ray cluster for tests: each node has processes and a loopback address of its own.

Connect to it from a process of its own as well, started with `RayCluster.variables`: Ray reads the
address and the token of a cluster once per process.
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmctr_pipeline_tests.ports import free_port

START_SECONDS = 90
OBJECT_STORE_BYTES = 150_000_000

_RAY = str(Path(sys.executable).parent / "ray")
_IS_UP = "Ray runtime started"


class RayNode:
    """One node; `address` is its IP address, `pids` are its processes."""

    def __init__(self, address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.address, self.process, self.log = address, process, log

    @property
    def pids(self) -> list[int]:
        """The living processes of the node, workers included: those of the session it began."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name of the program, in parentheses, may hold spaces.
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def wait_until_up(self) -> None:
        """Return when the node has joined the cluster; raises `RuntimeError` if it does not."""
        deadline = time.monotonic() + START_SECONDS
        while _IS_UP not in (said := self.log.read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node {self.address} did not start:\n{said}")
            time.sleep(0.1)


class RayCluster:
    """A cluster with token authentication; its first node is the head.

    `variables` are the environment variables with which a process may connect to it.
    """

    def __init__(self, folder: Path, n_cpus: int, options: Sequence[str] = ()) -> None:
        self.nodes: list[RayNode] = []
        self._options = options
        self.folder, self._n_cpus, self._n_started = folder, n_cpus, 0
        # Linux answers on all of 127.0.0.0/8, so clusters of concurrent tests use no port twice.
        self._network = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"
        self._port = free_port()
        self.variables = {
            "RAY_ADDRESS": f"{self._network}.1:{self._port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    @property
    def head(self) -> RayNode:
        """The node that the others depend on."""
        return self.nodes[0]

    def start_node(self, wait: bool = True, n_gpus: int = 0) -> RayNode:
        """Start a node, the head if it is the first; without `wait`, it may still be joining.

        Ray believes a node that says it has `n_gpus` GPUs.
        """
        self._n_started += 1
        address = f"{self._network}.{self._n_started}"
        log = self.folder / f"{address}.log"
        if self.nodes:
            place = [f"--address={self.variables['RAY_ADDRESS']}"]
        else:
            place = ["--head", f"--port={self._port}", f"--temp-dir={self.folder}"]
            place += ["--include-dashboard=false", f"--dashboard-port={free_port()}"]
        variables = {
            **os.environ,
            **self.variables,
            # A lost node is noticed after one second, not fifteen.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "2",
        }
        if not self.nodes:
            del variables["RAY_ADDRESS"]
        command = [_RAY, "start", "--block", *place, f"--node-ip-address={address}"]
        command += [f"--num-cpus={self._n_cpus}", f"--num-gpus={n_gpus}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", *self._options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = RayNode(address, process, log)
        self.nodes.append(node)
        if wait:
            node.wait_until_up()
        return node

    def kill(self, node: RayNode) -> None:
        """Kill all processes of a node at once, workers included, as a power cut would."""
        # First stopped, so that none notices that another has died, or starts a new one.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in node.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        node.process.wait()
        self.nodes.remove(node)


@contextlib.contextmanager
def ray_cluster(
    n_nodes: int = 2, n_cpus: int = 1, options: Sequence[str] = ()
) -> Iterator[RayCluster]:
    """Run a cluster of `n_nodes` nodes with `n_cpus` CPUs each, until the block ends.

    `options` are further options of `ray start`.
    """
    # pytest's folders are too deep: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))
    cluster = RayCluster(folder, n_cpus, options)
    try:
        cluster.start_node()
        for node in [cluster.start_node(wait=False) for _ in range(n_nodes - 1)]:
            node.wait_until_up()
        yield cluster
    finally:
        for node in reversed(cluster.nodes.copy()):
            cluster.kill(node)
        shutil.rmtree(folder, ignore_errors=True)

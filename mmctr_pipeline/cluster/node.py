"""Let this machine join a Ray cluster for as long as a program needs it."""

import contextlib
import importlib
import ipaddress
import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline.environment import DeploymentError

logger = logging.getLogger(__name__)

_START_SECONDS, _STOP_SECONDS = 60.0, 45.0
_HAS_STARTED = "Ray runtime started"


@contextlib.contextmanager
def cluster_node(address: str) -> Iterator[None]:
    """Make this machine a node of the cluster at `address`, HOST:PORT, until the block ends.

    Ray aborts a program that connects to a cluster from a machine that is no node of it. The node
    offers neither CPUs nor GPUs. If the machine is a node already, this does nothing. Raises
    `DeploymentError` if the cluster refuses the node.
    """
    if has_node(address):
        yield
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}"]
    with tempfile.NamedTemporaryFile("w") as log:
        process = subprocess.Popen(
            [*command, "--num-cpus=0", "--num-gpus=0", "--block"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while _HAS_STARTED not in (said := Path(log.name).read_text(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DeploymentError(
                        f"this machine cannot join the Ray cluster at {address}:\n{said[-2000:]}"
                    )
                time.sleep(0.1)
            logger.info(f"this machine has joined the Ray cluster at {address}")
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def has_node(address: str) -> bool:
    """Return whether a node of the cluster at `address` runs on this machine."""
    addresses = _numeric(address)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            program, *arguments = path.read_bytes().decode(errors="replace").split("\0")
            values = {word.rpartition("=")[2] for word in arguments}
            if Path(program).name == "raylet" and values & addresses:
                return True
    return False


def _numeric(address: str) -> set[str]:
    """Return an address HOST:PORT with each IP address of its host; Ray notes only these."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        ips = {str(entry[4][0]) for entry in found}
        if any(ipaddress.ip_address(ip).is_loopback for ip in ips):
            # Ray notes the address of this machine in its network.
            ips.add(importlib.import_module("ray").util.get_node_ip_address())
        return {address, *(f"{ip}:{port}" for ip in ips)}
    return {address}

"""Join a Ray cluster, or start Ray on this machine alone.

Ray is an extra: only this module and the modules that run on Ray import it, when they are called.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from mmctr_pipeline.cluster.node import cluster_node
from mmctr_pipeline.environment import DeploymentError

logger = logging.getLogger(__name__)

INSTALL_ADVICE = "Fix: make install EXTRAS=ray (or pip install 'mmctr-pipeline[ray]')"

_CONNECT_SECONDS, _WATCH_SECONDS = 10.0, 2.0


def has_ray() -> bool:
    """Return whether the extra `ray` is installed."""
    return importlib.util.find_spec("ray") is not None


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray until the block ends; does nothing if this process is already connected.

    `RAY_ADDRESS` names the cluster to join. If it is unset, Ray starts on this machine and stops
    at the end. Raises `DeploymentError` if Ray is not installed or the cluster does not answer.
    """
    address = require_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        if address not in ("local", "auto"):
            stack.enter_context(cluster_node(address))
        with _naming_address(address):
            # What workers log arrives through `log_relay`; what they print stays in Ray's logs.
            ray.init(
                address,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        stack.callback(ray.shutdown)
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has replaced it
        logger.info(f"Ray: {describe_cluster()}")
        yield


def require_ray() -> str:
    """Return the address of the cluster to join, `local` for a new one on this machine.

    Raises `DeploymentError` if Ray is not installed, if the address is a URL, or if nothing answers
    at an address HOST:PORT or the token is wrong, at once where Ray would try again for long.
    """
    if not has_ray():
        raise DeploymentError(f"compute: ray needs the package ray. {INSTALL_ADVICE}")
    # Ray would report the use of its libraries over the network, and print lines about its own
    # decisions; its log files have the errors of its other processes.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise DeploymentError(
            f"RAY_ADDRESS is {address!r}. Fix: give HOST:PORT, the address of `ray start`"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        with _naming_address(address):
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
            raylet: Any = importlib.import_module("ray._raylet")
            raylet.GcsClient(address=address)
    return address


@contextlib.contextmanager
def _naming_address(address: str) -> Iterator[None]:
    """Turn the errors of a connection into a `DeploymentError`."""
    import ray

    try:
        yield
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split(". ")[0].split())
        raise DeploymentError(
            f"RAY_ADDRESS is {address!r}, but Ray cannot connect ({reason}). Fix: start the "
            "cluster (ray start --head), set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its token, "
            "or unset RAY_ADDRESS to use this machine alone"
        ) from error


@contextlib.contextmanager
def warnings_of_changes(consequence: str) -> Iterator[None]:
    """Log a warning whenever the nodes, CPUs or GPUs of the cluster change, until the block ends.

    `consequence` ends the line.
    """
    import ray

    is_over = threading.Event()

    def watch(known: str) -> None:
        while not is_over.wait(_WATCH_SECONDS):
            with contextlib.suppress(ray.exceptions.RayError):
                if known != (known := describe_cluster()):
                    logger.warning(f"Ray: now {known}; {consequence}")

    thread = threading.Thread(target=watch, args=(describe_cluster(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def describe_cluster() -> str:
    """Return the nodes, CPUs and GPUs of the cluster that this process is connected to."""
    import ray

    n_nodes = sum(node["Alive"] for node in ray.nodes())
    resources = ray.cluster_resources()
    counts = ((n_nodes, "node"), (resources.get("CPU", 0), "CPU"), (resources.get("GPU", 0), "GPU"))
    return ", ".join(f"{count:g} {name}{'s' * (count != 1)}" for count, name in counts)


def n_gpus() -> int:
    """Return the number of GPUs of the cluster that this process is connected to."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))

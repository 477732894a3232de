"""Join a Ray cluster, or start Ray on this machine alone.

Ray is an extra: only this module and the modules that run on Ray import it, when they are called.
"""

import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Iterator

from mmctr_pipeline.cluster.node import cluster_node
from mmctr_pipeline.environment import DeploymentError

logger = logging.getLogger(__name__)

INSTALL_ADVICE = "Fix: make install EXTRAS=ray (or pip install 'mmctr-pipeline[ray]')"


_CONNECT_SECONDS = 10.0


def has_ray() -> bool:
    """Return whether the extra `ray` is installed."""
    return importlib.util.find_spec("ray") is not None


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray until the block ends; does nothing if this process is already connected.

    `RAY_ADDRESS` names the cluster to join. If it is unset, Ray starts on this machine and stops
    at the end. Raises `DeploymentError` if Ray is not installed or the cluster does not answer.
    """
    if not has_ray():
        raise DeploymentError(f"compute: ray needs the package ray. {INSTALL_ADVICE}")
    # Ray would report the use of its libraries over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    with contextlib.ExitStack() as stack:
        _connect(address, stack)
        logger.info(f"Ray: {describe_cluster()}")
        yield


def _connect(address: str, stack: contextlib.ExitStack) -> None:
    """Connect to Ray; `stack` disconnects."""
    import ray

    try:
        if address not in ("local", "auto"):
            _require_listener(address)
            stack.enter_context(cluster_node(address))
        # What workers log arrives through `log_relay`; what they print stays in Ray's own logs.
        ray.init(
            address,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (OSError, ray.exceptions.AuthenticationError) as error:
        raise DeploymentError(
            f"RAY_ADDRESS is {address!r}, but Ray cannot connect ({error}). Fix: start the cluster "
            "(ray start --head), set RAY_AUTH_TOKEN to its token, or unset RAY_ADDRESS to use this "
            "machine alone"
        ) from error
    stack.callback(ray.shutdown)


def _require_listener(address: str) -> None:
    """Raise `OSError` if nothing listens at an address HOST:PORT, for which Ray would wait long."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


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

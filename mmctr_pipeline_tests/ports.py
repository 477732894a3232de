"""Free ports for the servers of tests."""

import socket


def free_port() -> int:
    """Return a port of this machine that no server uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

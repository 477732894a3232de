"""Makes a folder available at a URL."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, scheme: str) -> Iterator[str]:
    """Make a folder available at a URL of scheme `file`, `memory` or `http`; yield the URL."""
    if scheme == "file":
        yield f"file://{folder}"
    elif scheme == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(f"{folder}/", "/bucket/covers/", recursive=True)
        yield "memory://bucket/covers"
        memory.rm("/bucket", recursive=True)
    else:
        pytest.importorskip("aiohttp")
        handler = functools.partial(Quiet, directory=str(folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

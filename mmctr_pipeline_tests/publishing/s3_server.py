"""A real S3 server for tests: rclone serves a folder on a port of this machine."""

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mmctr_pipeline_tests.ports import free_port

RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
BUCKET = "artefacts"
KEY_ID, SECRET = "the-key-id-of-the-tests-5d1c", "the-secret-key-of-the-tests-5d1c"
START_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class S3Server:
    """A running server with one bucket, whose objects are the files in `folder`."""

    endpoint: str
    folder: Path
    url: str = f"s3://{BUCKET}/nightly"

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which S3 clients find the server and may use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Without credentials, clients would look for those of a virtual machine in the cloud.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Serve the bucket `BUCKET` below `folder` until the block ends."""
    assert RCLONE is not None, "rclone is missing: install the extra dev"
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    address = f"127.0.0.1:{port}"
    process = subprocess.Popen(
        [RCLONE, "serve", "s3", str(folder), "--addr", address],
        env={
            **os.environ,
            "RCLONE_AUTH_KEY": f'"{KEY_ID},{SECRET}"',
            "RCLONE_CONFIG": os.devnull,
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield S3Server(f"http://{address}", folder / BUCKET)
    finally:
        process.kill()
        process.wait()

"""A real PostgreSQL server for tests, in a folder of its own and on a port of this machine."""

import contextlib
import dataclasses
import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

from mmctr_pipeline_tests.ports import free_port

START_SECONDS = 120


def postgres_binaries() -> Path | None:
    """Return the folder with `initdb` and `postgres`, None if PostgreSQL is not installed."""
    installed = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    initdb = installed[-1] if installed else shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


@dataclasses.dataclass(frozen=True)
class Postgres:
    """A running server with an empty database, and the role that owns it."""

    port: int
    user: str
    password: str
    database: str

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with (
            contextlib.closing(
                psycopg2.connect(
                    host="127.0.0.1",
                    port=self.port,
                    user=self.user,
                    password=self.password,
                    dbname=self.database,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query, values)
            return cursor.fetchall()


@contextlib.contextmanager
def postgres_server(binaries: Path, user: str, password: str, database: str) -> Iterator[Postgres]:
    """Run a server that accepts only this role with its password, until the block ends."""
    # PostgreSQL refuses to run as root, and others cannot read pytest's folders.
    owner = _other_user() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(password)
    if owner is not None:
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    options: dict[str, Any] = {"cwd": folder, "user": owner and owner.pw_uid}
    cluster, port = folder / "data", free_port()
    subprocess.run(
        [
            *(binaries / "initdb", "-D", cluster, "-U", user, "--auth=scram-sha-256"),
            *(f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"),
        ],
        **options,
        check=True,
        capture_output=True,
    )
    server = subprocess.Popen(
        [
            *(binaries / "postgres", "-D", cluster, "-p", str(port), "-k", folder),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
        ],
        **options,
        stderr=subprocess.DEVNULL,
    )
    try:
        admin = Postgres(port, user, password, "postgres")
        _wait(server, admin)
        with contextlib.closing(
            psycopg2.connect(
                host="127.0.0.1", port=port, user=user, password=password, dbname="postgres"
            )
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {database}")
        yield dataclasses.replace(admin, database=database)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> pwd.struct_passwd:
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _wait(server: "subprocess.Popen[bytes]", admin: Postgres) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            admin.rows("SELECT 1")
            return
        except psycopg2.OperationalError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)

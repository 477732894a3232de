"""A folder in an object store, or in any other place that fsspec reaches by a URL."""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

_BLOCK_BYTES = 2**23
_ATOMIC_UPLOADS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Schemes of stores where an object becomes visible only when its upload is complete."""

_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""The package that fsspec needs for a scheme."""


class PublishError(RuntimeError):
    """Artefacts cannot be published or fetched; the message names the place and says why."""


class ObjectStore:
    """The objects below a URL such as `s3://bucket/folder`; keys are relative to it.

    Credentials come from where the client of the store looks for them, for S3 from `AWS_*`
    variables, `~/.aws` or the role of the machine. All methods raise `PublishError`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._scheme = url.partition("://")[0]
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if self._scheme in ("file", "local"):
            options["auto_mkdir"] = True
        with self._naming_errors("use"):
            self._files, root = fsspec.core.url_to_fs(url, **options)
            self._root = root.rstrip("/")

    def upload(self, source: Path, key: str) -> None:
        """Upload a file, then read it back and compare it. An earlier object is replaced.

        If the upload is cut off, the key holds the earlier object or none.
        """
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._path(key)
        is_atomic = self._scheme in _ATOMIC_UPLOADS
        incoming = target if is_atomic else f"{target}.incoming-{secrets.token_hex(6)}"
        with self._naming_errors("write to"):
            self._files.put_file(str(source), incoming)
            if not is_atomic:
                self._files.mv(incoming, target)
        if not self.holds(key, source.stat().st_size, sha256):
            raise PublishError(
                f"{self.url}/{key} differs from {source} after the upload: the file changed "
                "meanwhile, or the store lost a part of it. Fix: mmctr push"
            )

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None if there is no such object."""
        try:
            with self._naming_errors("read"):
                return int(self._files.info(self._path(key))["size"])
        except PublishError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Return whether there is an object of this size and content; reads the whole object."""
        if self.size(key) != size:
            return False
        digest = hashlib.sha256()
        for block in self._blocks(key):
            digest.update(block)
        return digest.hexdigest() == sha256

    def download(self, key: str, target: Path) -> str:
        """Write an object to a file and return the SHA-256 of its content."""
        digest = hashlib.sha256()
        with target.open("wb") as file:
            for block in self._blocks(key):
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the objects in a folder; none if there is no such folder."""
        try:
            with self._naming_errors("list"):
                paths = self._files.ls(self._path(folder), detail=False)
        except PublishError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return []
            raise
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with self._naming_errors("write to"), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(key))

    def require_writable(self) -> None:
        """Write a small object and delete it, before a long run."""
        key = f".probe-{secrets.token_hex(6)}"
        with self._naming_errors("write to"):
            self._files.pipe_file(self._path(key), b"mmctr")
        self.delete(key)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _blocks(self, key: str) -> Iterator[bytes]:
        with self._naming_errors("read"):
            source = self._files.open(self._path(key), "rb", block_size=_BLOCK_BYTES)
            with contextlib.closing(source):
                while block := source.read(_BLOCK_BYTES):
                    yield block

    @contextlib.contextmanager
    def _naming_errors(self, action: str) -> Iterator[None]:
        """Turn the errors of the store's client, which can be of any class, into one line."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PublishError(
                f"cannot {action} {self.url}: {reason.rstrip('.')}. Fix: {self._fix(error)}"
            ) from error

    def _fix(self, error: Exception) -> str:
        if isinstance(error, ImportError):
            package = _EXTRAS.get(self._scheme, "the package that fsspec needs for it")
            extra = " (the extra s3 of this package)" if package == "s3fs" else ""
            return f"install {package}{extra}"
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            return (
                "give credentials that may list, read, write and delete there; for S3, "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the role of this machine"
            )
        if isinstance(error, FileNotFoundError):
            return "create the bucket, or correct MMCTR_PUBLISH_URL"
        if self._scheme in ("file", "local"):
            return "make the folder writable, free some space, or correct MMCTR_PUBLISH_URL"
        return "check MMCTR_PUBLISH_URL and that the store can be reached; for S3, AWS_ENDPOINT_URL"

"""Find and read cover images in an object store, or wherever else fsspec reads by a URL.

The clients of stores look for credentials where they always do, for S3 in `AWS_*` variables,
`~/.aws` or the role of the machine.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import fsspec

from mmctr_pipeline.data.images import ImageIndex, index_images, index_url
from mmctr_pipeline.data.validation import DataNotFoundError


def index_images_at(url: str) -> ImageIndex:
    """List the images in the folder at a URL, and in its subfolders, as `index_images` does.

    Raises `DataNotFoundError` if there is no such folder, or if it cannot be listed.
    """
    require_folder(url)
    if url.startswith("file://"):
        return index_images(Path(url.removeprefix("file://")))
    with _naming_url(url):
        files, root = fsspec.core.url_to_fs(url)
        found = files.find(root, maxdepth=2)
    return index_url([path.removeprefix(root).lstrip("/") for path in found], url)


def require_folder(url: str) -> None:
    """Raise `DataNotFoundError` if there is no folder at a URL, or if it cannot be reached."""
    with _naming_url(url):
        files, root = fsspec.core.url_to_fs(url)
        if not files.exists(root):
            raise FileNotFoundError("there is no such folder")


def read_url(url: str, max_bytes: int) -> bytes:
    """Return the file at a URL, or its first `max_bytes`; raises errors of any class."""
    with fsspec.open(url, "rb") as file:
        content: bytes = file.read(max_bytes)
    return content


@contextlib.contextmanager
def _naming_url(url: str) -> Iterator[None]:
    """Turn the errors of a store's client, which can be of any class, into one."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataNotFoundError(
            f"the covers at {url} cannot be listed: {reason.rstrip('.')}. Fix: correct "
            "encoders.image.images_url, or the credentials of the store; for S3, install the "
            "extra s3"
        ) from error

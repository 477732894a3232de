"""The `MMCTR_*` environment variables: data, storage, preset, executor, device and so on."""

import dataclasses
import errno
import os
import re
import urllib.parse
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Self

EXECUTORS = ("multiprocess", "in_process", "k8s")
NIGHTLY = ("cron", "changes")


def share_cores() -> None:
    """Let OpenMP threads wait for each other actively, but briefly. Call before importing torch.

    A training step consists of hundreds of short parallel loops, and many take less time than
    waking a sleeping thread. By default threads wait actively 30 times as long as here, which
    takes their cores from other processes. Variables already set (`GOMP_SPINCOUNT`,
    `OMP_WAIT_POLICY`, see libgomp's manual) take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class DeploymentError(ValueError):
    """An environment variable has an invalid value; the message says what is valid."""


_FIRST_FIXES = {
    errno.EDQUOT: "free some space there",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EIO: "check the disk",
    errno.ENOSPC: "free some space there",
    errno.ENOTDIR: "move away the file that is in its place",
}


def place_advice(path: Path, number: int | None, variable: str | None = None) -> str:
    """Return advice about a path that cannot be written to, as "Fix: ...".

    Parameters
    ----------
    path
        The file or folder.
    number
        The error number (`errno`).
    variable
        The environment variable that chose the place; by default it is found from the path.
    """
    for name, default in (("MMCTR_STORAGE_DIR", "storage"), ("DAGSTER_HOME", ".dagster")):
        folder = Path(os.environ.get(name) or default)
        is_inside = any(
            path.absolute().is_relative_to(parent)
            for parent in (folder.absolute(), folder.resolve())
        )
        if is_inside:
            variable = variable or name
    fix = _FIRST_FIXES.get(number or 0, "make it writable")
    if variable is None:
        return f"Fix: {fix}, or name another place"
    value = os.environ.get(variable) or "unset"
    return f"Fix: {fix}, or set {variable} (now {value}) to another folder"


@dataclasses.dataclass(frozen=True)
class Deployment:
    """The values of the `MMCTR_*` variables of one deployment.

    `data_dir` is None for the sample dataset, and may be a link. `preset` is None if unset;
    `mmctr_pipeline.presets` then chooses one or raises an error. `nightly` chooses what starts a
    nightly run: "cron" is the schedule, "changes" the automation on changed data, and None leaves
    both stopped. `cron` is validated with the schedule's definition. `publish_url` is None if
    artefacts are not published. `notify_url` may hold a secret and is never printed.
    """

    data_dir: Path | None
    storage_dir: Path
    preset: str | None
    executor: str = "multiprocess"
    device: str = "auto"
    nightly: str | None = None
    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    publish_url: str | None = None
    notify_url: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Self:
        """Read the variables, by default those of this process.

        Raises `DeploymentError` for a value that is not valid, such as an unknown executor, for a
        data folder that does not exist, and for an address to publish to that is no URL or holds a
        password.
        """
        values = os.environ if variables is None else variables
        data_dir = values.get("MMCTR_DATA_DIR") or None
        if data_dir is not None and not Path(data_dir).is_dir():
            raise DeploymentError(
                f"MMCTR_DATA_DIR is {data_dir!r}, which is not a folder; "
                "unset it to use the sample dataset"
            )
        executor = values.get("MMCTR_EXECUTOR") or "multiprocess"
        if executor not in EXECUTORS:
            raise DeploymentError(
                f"MMCTR_EXECUTOR is {executor!r}; known executors: {', '.join(EXECUTORS)}"
            )
        device = values.get("MMCTR_DEVICE") or "auto"
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise DeploymentError(
                f"MMCTR_DEVICE is {device!r}; known devices: auto, cpu, cuda, cuda:N"
            )
        nightly = values.get("MMCTR_NIGHTLY") or None
        if nightly is not None and nightly not in NIGHTLY:
            raise DeploymentError(
                f"MMCTR_NIGHTLY is {nightly!r}; known values: {', '.join(NIGHTLY)}; "
                "unset it to start no nightly run"
            )
        return cls(
            data_dir=Path(data_dir).absolute() if data_dir else None,
            storage_dir=Path(values.get("MMCTR_STORAGE_DIR") or "storage").resolve(),
            preset=values.get("MMCTR_PRESET") or None,
            executor=executor,
            device=device,
            nightly=nightly,
            cron=values.get("MMCTR_CRON") or cls.cron,
            timezone=_time_zone(values.get("MMCTR_TIMEZONE") or cls.timezone),
            publish_url=_publish_url(values.get("MMCTR_PUBLISH_URL") or None),
            notify_url=notify_url(values),
        )


def notify_url(variables: Mapping[str, str]) -> str | None:
    """Return the address of the webhook for events, or None if none is set.

    Raises `DeploymentError`, which does not show the value, if it is no web address.
    """
    url = variables.get("MMCTR_NOTIFY_URL") or None
    if url is None:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    # Other characters would be refused only when the address is used.
    if not is_valid or re.search(r"[^!-~]", url):
        raise DeploymentError(
            "MMCTR_NOTIFY_URL is not an address such as https://example.org/hook "
            "(it is not shown here, as it may hold a secret)"
        )
    return url


def _time_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DeploymentError(
            f"MMCTR_TIMEZONE is {name!r}, which is not a time zone such as Europe/Berlin"
        ) from error
    return name


def _publish_url(url: str | None) -> str | None:
    """Check the address to publish to. It is never printed if it may hold a password."""
    if url is None:
        return None
    examples = "such as s3://bucket/folder or file:///mnt/backup"
    if "@" in url or "?" in url:
        raise DeploymentError(
            "MMCTR_PUBLISH_URL holds '@' or '?', and so perhaps a password; write only the place, "
            f"{examples}, and give credentials as the client of the store expects them, for S3 in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    parts = urllib.parse.urlsplit(url)
    if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
        raise DeploymentError(f"MMCTR_PUBLISH_URL is {url!r}, which is not a URL {examples}")
    return url.rstrip("/")

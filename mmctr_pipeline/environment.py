"""The `MMCTR_*` environment variables: data, storage, preset, executor, device and so on."""

import contextlib
import dataclasses
import errno
import os
import re
import tomllib
import urllib.parse
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TypeVar

from mmctr_pipeline.settings import listed, nearest

T = TypeVar("T")

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
    """Environment variables have invalid values; the message says what is valid."""


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
    places = {"MMCTR_STORAGE_DIR": default_storage(), "DAGSTER_HOME": Path(".dagster")}
    for name, default in places.items():
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


def default_storage() -> Path:
    """Return the storage folder if MMCTR_STORAGE_DIR is not set: `storage` in the checkout.

    The checkout is the nearest folder, from the current one upwards, whose `pyproject.toml` is that
    of mmctr-pipeline. Outside a checkout it is `storage` in the current folder.
    """
    here = Path.cwd()
    return next(filter(_is_checkout, (here, *here.parents)), here) / "storage"


def _is_checkout(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        return bool(content["project"]["name"] == "mmctr-pipeline")
    return False


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

        Raises `DeploymentError` with all values that are not valid, such as an unknown executor, a
        data folder that does not exist, and an address to publish to that is no URL or holds a
        password.
        """
        values = os.environ if variables is None else variables
        faults: list[str] = []

        def read(name: str, parse: Callable[[str], T], default: T) -> T:
            text = values.get(name)
            try:
                return parse(text) if text else default
            except DeploymentError as error:
                faults.append(str(error))
                return default

        deployment = cls(
            data_dir=read("MMCTR_DATA_DIR", _data_dir, None),
            storage_dir=read("MMCTR_STORAGE_DIR", Path, default_storage()).resolve(),
            preset=values.get("MMCTR_PRESET") or None,
            executor=read("MMCTR_EXECUTOR", _executor, cls.executor),
            device=read("MMCTR_DEVICE", _device, cls.device),
            nightly=read("MMCTR_NIGHTLY", _nightly, None),
            cron=values.get("MMCTR_CRON") or cls.cron,
            timezone=read("MMCTR_TIMEZONE", _time_zone, cls.timezone),
            publish_url=read("MMCTR_PUBLISH_URL", _publish_url, None),
            notify_url=read("MMCTR_NOTIFY_URL", _notify_url, None),
        )
        if faults:
            raise DeploymentError(listed(faults))
        return deployment


VARIABLES = (
    *("MMCTR_DATA_DIR", "MMCTR_STORAGE_DIR", "MMCTR_PRESET", "MMCTR_EXECUTOR", "MMCTR_DEVICE"),
    *("MMCTR_NIGHTLY", "MMCTR_CRON", "MMCTR_TIMEZONE", "MMCTR_PUBLISH_URL", "MMCTR_NOTIFY_URL"),
    "MMCTR_PLUGINS",
)
"""Names of all variables; `plugins.py` reads the last one."""

_OF_DEPLOYMENTS = ("MMCTR_IMAGE", "MMCTR_PORT")
"""Variables that only `deploy/single_host/compose.yaml` reads."""


def unknown_variables(variables: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each variable with our prefix that nothing reads; values stay unseen.

    `variables` are by default those of this process.
    """
    names = sorted(os.environ if variables is None else variables)
    unknown = [
        name
        for name in names
        if name.startswith("MMCTR_") and name not in (*VARIABLES, *_OF_DEPLOYMENTS)
    ]
    # All names are alike in their prefix.
    hints = [nearest(name, VARIABLES, least=0.8) for name in unknown]
    return [
        f"{name} is no variable of the pipeline{hint}. Fix: rename or unset it"
        for name, hint in zip(unknown, hints, strict=True)
    ]


def _data_dir(text: str) -> Path:
    if not Path(text).is_dir():
        raise DeploymentError(
            f"MMCTR_DATA_DIR is {text!r}, which is not a folder; unset it to use the sample dataset"
        )
    return Path(text).absolute()


def _executor(text: str) -> str:
    if text not in EXECUTORS:
        raise DeploymentError(
            f"MMCTR_EXECUTOR is {text!r}{nearest(text, EXECUTORS)}; "
            f"known executors: {', '.join(EXECUTORS)}"
        )
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise DeploymentError(f"MMCTR_DEVICE is {text!r}; known devices: auto, cpu, cuda, cuda:N")
    return text


def _nightly(text: str) -> str:
    if text not in NIGHTLY:
        raise DeploymentError(
            f"MMCTR_NIGHTLY is {text!r}; known values: {', '.join(NIGHTLY)}; "
            "unset it to start no nightly run"
        )
    return text


def notify_url(variables: Mapping[str, str]) -> str | None:
    """Return the address of the webhook for events, or None if none is set.

    Raises `DeploymentError`, which does not show the value, if it is no web address.
    """
    url = variables.get("MMCTR_NOTIFY_URL")
    return _notify_url(url) if url else None


def _notify_url(url: str) -> str:
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


def _publish_url(url: str) -> str:
    """Check the address to publish to. It is never printed if it may hold a password."""
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

"""The deployment follows from environment variables; an error names the bad one."""

import errno
from pathlib import Path

import pytest

from mmctr_pipeline.environment import (
    EXECUTORS,
    VARIABLES,
    Deployment,
    DeploymentError,
    place_advice,
    unknown_variables,
)

REPOSITORY = Path(__file__).parents[1]


def test_without_variables_the_sample_dataset_is_used() -> None:
    deployment = Deployment.from_environment({})
    assert deployment.data_dir is None
    assert deployment.preset is None
    assert deployment.executor == "multiprocess"
    assert deployment.device == "auto"
    assert deployment.storage_dir == Path.cwd() / "storage"


def test_empty_values_count_as_unset() -> None:
    names = ("DATA_DIR", "STORAGE_DIR", "PRESET", "EXECUTOR", "DEVICE")
    names += ("NIGHTLY", "CRON", "TIMEZONE", "NOTIFY_URL")
    empty = {f"MMCTR_{name}": "" for name in names}
    assert Deployment.from_environment(empty) == Deployment.from_environment({})


def test_values_are_read(tmp_path: Path) -> None:
    deployment = Deployment.from_environment(
        {
            "MMCTR_DATA_DIR": str(tmp_path),
            "MMCTR_STORAGE_DIR": str(tmp_path / "out"),
            "MMCTR_PRESET": "text_only",
            "MMCTR_EXECUTOR": "in_process",
            "MMCTR_DEVICE": "cuda:1",
            "MMCTR_PUBLISH_URL": "s3://bucket/nightly/",
            "MMCTR_NIGHTLY": "changes",
            "MMCTR_CRON": "30 4 * * 1",
            "MMCTR_TIMEZONE": "Europe/Berlin",
            "MMCTR_NOTIFY_URL": "https://example.org/hook",
        }
    )
    assert deployment == Deployment(
        data_dir=tmp_path,
        storage_dir=tmp_path / "out",
        preset="text_only",
        executor="in_process",
        device="cuda:1",
        publish_url="s3://bucket/nightly",
        nightly="changes",
        cron="30 4 * * 1",
        timezone="Europe/Berlin",
        notify_url="https://example.org/hook",
    )


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    deployment = Deployment.from_environment({"MMCTR_DATA_DIR": "data", "MMCTR_STORAGE_DIR": "out"})
    assert deployment.data_dir == tmp_path / "data"
    assert deployment.storage_dir == tmp_path / "out"


def test_the_default_storage_is_that_of_the_checkout_from_each_of_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def default() -> Path:
        return Deployment.from_environment({}).storage_dir

    for folder in (REPOSITORY, REPOSITORY / "docs", REPOSITORY / "mmctr_pipeline" / "data"):
        monkeypatch.chdir(folder)
        assert default() == REPOSITORY / "storage"
        assert "MMCTR_STORAGE_DIR" in place_advice(REPOSITORY / "storage" / "x", errno.ENOSPC)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "pyproject.toml").write_text("not TOML")
    monkeypatch.chdir(tmp_path / "deep")
    assert default() == tmp_path / "deep" / "storage"


def test_all_wrong_values_are_reported_at_once() -> None:
    variables = {
        "MMCTR_DATA_DIR": "/no/such/folder",
        "MMCTR_EXECUTOR": "in_proces",
        "MMCTR_DEVICE": "gpu",
        "MMCTR_TIMEZONE": "Mars/Base",
        "MMCTR_NOTIFY_URL": "token-5d1c",
    }
    with pytest.raises(DeploymentError) as error:
        Deployment.from_environment(variables)
    first, *faults = str(error.value).splitlines()
    assert first == "5 faults:"
    assert [fault.split()[0] for fault in faults] == list(variables)
    assert "'in_proces' (did you mean in_process?); known executors" in faults[1]
    assert "5d1c" not in str(error.value)


def test_unknown_variables_are_named_with_the_nearest_one_and_without_their_values() -> None:
    read = dict.fromkeys((*VARIABLES, "MMCTR_IMAGE", "STORAGE"), "x")
    assert unknown_variables(read) == []
    assert unknown_variables({**read, "MMCTR_STORAGE": "5d1c", "MMCTR_X": "5d1c"}) == [
        "MMCTR_STORAGE is no variable of the pipeline (did you mean MMCTR_STORAGE_DIR?). "
        "Fix: rename or unset it",
        "MMCTR_X is no variable of the pipeline. Fix: rename or unset it",
    ]


def test_environment_variables_of_the_process_are_read_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path))
    assert Deployment.from_environment().storage_dir == tmp_path


def test_an_unknown_executor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeploymentError) as error:
        Deployment.from_environment({"MMCTR_EXECUTOR": "celery"})
    assert "'celery'" in str(error.value)
    assert ", ".join(EXECUTORS) in str(error.value)


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nowhere", "file"):
        with pytest.raises(DeploymentError, match="is not a folder"):
            Deployment.from_environment({"MMCTR_DATA_DIR": str(tmp_path / name)})


@pytest.mark.parametrize("url", ["bucket/nightly", "/mnt/backup", "s3://", "file:///", "nightly"])
def test_an_address_to_publish_to_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(DeploymentError, match=f"MMCTR_PUBLISH_URL is '{url}'"):
        Deployment.from_environment({"MMCTR_PUBLISH_URL": url})


@pytest.mark.parametrize("url", ["s3://me:secret-5d1c@bucket/x", "s3://bucket/x?key=secret-5d1c"])
def test_an_address_with_a_password_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(DeploymentError, match="AWS_SECRET_ACCESS_KEY") as error:
        Deployment.from_environment({"MMCTR_PUBLISH_URL": url})
    assert "secret-5d1c" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        *("token-5d1c", "ftp://example.org/token-5d1c", "https:///token-5d1c"),
        *("https://example.org:port/token-5d1c", "https://example.org/token-5d1c\n"),
    ],
)
def test_an_impossible_webhook_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DeploymentError, match="MMCTR_NOTIFY_URL is not an address") as error:
        Deployment.from_environment({"MMCTR_NOTIFY_URL": url})
    assert "5d1c" not in str(error.value)


def test_a_deployment_is_shown_without_its_webhook() -> None:
    url = "https://user:secret-5d1c@example.org/hook?token=5d1c"
    assert "5d1c" not in repr(Deployment.from_environment({"MMCTR_NOTIFY_URL": url}))


@pytest.mark.parametrize(
    ("place", "number", "expected"),
    [
        ("storage/models/x.pt", errno.ENOSPC, "free some space there, or set MMCTR_STORAGE_DIR"),
        ("home/history/runs.db", errno.EROFS, "make it writable, or set DAGSTER_HOME"),
        (
            "storage",
            errno.ENOTDIR,
            "move away the file that is in its place, or set MMCTR_STORAGE_DIR",
        ),
        (
            "storage/x",
            errno.EFBIG,
            "raise the limit of file sizes (ulimit -f), or set MMCTR_STORAGE_DIR",
        ),
        ("storage/x", errno.EIO, "check the disk, or set MMCTR_STORAGE_DIR"),
        ("elsewhere/x", errno.EACCES, "make it writable, or name another place"),
    ],
)
def test_the_advice_names_the_variable_that_chose_the_place(
    place: str, number: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCTR_STORAGE_DIR", str(tmp_path / "storage"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    assert place_advice(tmp_path / place, number).startswith(f"Fix: {expected}")


def test_the_advice_recognises_the_default_folder_and_a_linked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default = "or set MMCTR_STORAGE_DIR (now unset) to another folder"
    assert place_advice(Path("storage/x"), errno.ENOSPC).endswith(default)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    monkeypatch.setenv("MMCTR_STORAGE_DIR", "link")
    assert "MMCTR_STORAGE_DIR (now link)" in place_advice(tmp_path / "disk" / "x", errno.ENOSPC)

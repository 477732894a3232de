"""Locks keep other holders out and are released, also after an error."""

import threading
import time
from pathlib import Path

from mmctr_pipeline.files.locks import locked


def test_an_exclusive_lock_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "lock"
    with locked(path) as is_mine:
        assert is_mine
        for shared in (False, True):
            with locked(path, shared=shared, wait=False) as is_mine_too:
                assert not is_mine_too
        assert path.exists()
    assert not path.exists()


def test_shared_locks_keep_out_only_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, shared=True), locked(path, shared=True, wait=False) as is_shared:
        assert is_shared
        with locked(path, wait=False) as is_mine:
            assert not is_mine
    with locked(path, wait=False) as is_mine:
        assert is_mine


def test_waiting_holders_get_the_lock_one_at_a_time(tmp_path: Path) -> None:
    """On release, `locked` removes the file while other threads still wait for its lock."""
    holders: list[int] = []
    n_holders: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                holders.append(number)
                time.sleep(0.001)
                n_holders.append(len(holders))
                holders.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert n_holders == [1] * 200


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    try:
        with locked(tmp_path / "lock"):
            raise RuntimeError("planted")
    except RuntimeError:
        pass
    with locked(tmp_path / "lock", wait=False) as is_mine:
        assert is_mine

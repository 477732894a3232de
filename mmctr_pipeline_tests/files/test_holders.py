"""A lock file names the process that holds the lock, also after that process was killed."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from mmctr_pipeline.files.holders import UNKNOWN, Holder, held, holder_of, recorded_holder

HOLD = """
import sys, time
from pathlib import Path
from mmctr_pipeline.files.holders import Holder, held
with held(Path(sys.argv[1]), Holder.this_process("7", "run 7")) as other:
    print(other, flush=True)
    time.sleep(60)
"""


def test_others_learn_who_holds_the_lock_until_it_is_released(tmp_path: Path) -> None:
    path, me = tmp_path / "lock", Holder.this_process("1", "run 1")
    assert holder_of(path) is None
    with held(path, me) as other:
        assert other is None
        assert holder_of(path) == me
        with held(path, Holder.this_process("2", "run 2")) as first:
            assert first == me
        assert holder_of(path) == me
    assert holder_of(path) is None
    assert str(me) == f"run 1, since {me.since}, process {os.getpid()} on {me.host}"


def test_a_killed_holder_frees_the_lock_and_is_still_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        holder = holder_of(path)
        assert holder is not None
        assert (holder.label, holder.process) == ("run 7", process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert holder_of(path) is None
    assert recorded_holder(path) == holder
    with held(path, Holder.this_process("8", "run 8")) as other:
        assert other is None


def test_a_holder_is_on_this_machine_if_its_host_name_or_kernel_is_the_same() -> None:
    me = Holder.this_process("1", "run 1")
    assert me.is_on_this_machine
    assert dataclasses.replace(me, host="another container of this machine").is_on_this_machine
    assert dataclasses.replace(me, boot="before a restart of this machine").is_on_this_machine
    assert not dataclasses.replace(me, host="elsewhere", boot="").is_on_this_machine
    assert not UNKNOWN.is_on_this_machine


def test_a_lock_file_without_a_holder_is_of_an_unknown_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path, Holder.this_process("1", "run 1")):
        path.write_text("{")  # as while the holder writes it
        assert holder_of(path) == UNKNOWN

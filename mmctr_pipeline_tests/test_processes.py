"""A process ends when its parent does."""

import os
import signal
import subprocess
import sys

import psutil

CHILD = "import time; from mmctr_pipeline.processes import end_when_closed; end_when_closed(0); "
PARENT = f"""
import subprocess, sys, time
command = [sys.executable, "-c", {CHILD + "time.sleep(60)"!r}]
child = subprocess.Popen(command, stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_process_lives_while_its_pipe_is_open_and_ends_when_it_closes() -> None:
    code = CHILD + "print('alive', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"alive\n"
        process.stdin.write(b"input is ignored\n")
        process.stdin.flush()
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=10) == 1


def test_a_process_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs([child], timeout=10)
        assert not alive

"""Ctrl-C and SIGTERM end the process, at the latest after the grace period of `StopSignals`."""

import os
import signal
import subprocess
import sys
import time

import pytest

START = """
import signal, sys, time
from mmctr_pipeline.defs.stop_signals import StopSignals
"""
BLOCK = """
with StopSignals() as stop:
    stop.before_exit = lambda: print("before exit", flush=True)
    stop.grace_seconds = GRACE
    # Dagster replaces the handlers during a run.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and not (ENDS_BY_ITSELF and stop.received):
        time.sleep(0.05)
print("over", flush=True)
sys.exit(stop.exit_status)
"""
UNDER_MAKE = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", CODE], env={**os.environ, "MAKELEVEL": "1"})
child.wait()
"""


def _start(code: str, **variables: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "MAKELEVEL"} | variables,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _block(grace: float = 0.0, ends_by_itself: bool = False) -> str:
    return BLOCK.replace("GRACE", str(grace)).replace("ENDS_BY_ITSELF", str(ends_by_itself))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_a_signal_ends_the_process(number: signal.Signals, grace: float) -> None:
    process = _start(_block(grace))
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    before, last = out.splitlines()
    assert before == "before exit"
    assert last.startswith(f"Stopped by {number.name}. What is finished is kept")
    assert process.returncode == 128 + number


def test_a_block_may_end_by_itself_in_its_grace_period() -> None:
    process = _start(_block(grace=60, ends_by_itself=True))
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "over\n"
    assert process.returncode == 143


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = _start(_block(grace=60))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0].startswith("before exit\n")
    assert process.returncode == 130


def test_a_run_under_make_ends_with_make() -> None:
    parent = _start(UNDER_MAKE.replace("CODE", repr(START + _block())))
    parent.kill()
    assert parent.stdout is not None
    # The child holds the other end of the pipe, so reading returns when the child has ended.
    assert "Stopped by SIGTERM." in parent.stdout.read()
    parent.wait()
    parent.stdout.close()

"""A terminal that goes away, as when a connection drops, leaves the run going; `forge watch` picks it up."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import psutil

from cosmos_forge import events


def start(workplace, name, *overrides):
    """`forge run` in a terminal of its own, as after a login; gives the process and the terminal's other end."""
    ours, theirs = pty.openpty()

    def take_terminal():
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-m", "cosmos_forge", *workplace.command(name, *overrides)],
        cwd=workplace.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FORGE_GPUS": "0", "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    return process, ours


def wait_for(workplace, process, name, kind, terminal):
    os.set_blocking(terminal, False)
    while not any(isinstance(each, kind) for each in workplace.events(name)):
        assert process.poll() is None
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.02)


def test_a_dropped_connection(workplace):
    process, terminal = start(workplace, "dropped", "stages=['prepare', 'train']")
    wait_for(workplace, process, "dropped", events.Step, terminal)
    os.close(terminal)
    said = workplace.forge("watch", "dropped")
    assert process.wait(timeout=60) == 0
    assert "dropped: done" in said
    assert "the terminal is gone and the run goes on: `forge watch runs/dropped` shows it" in said
    assert f"`kill {process.pid}` asks it to save and stop" in said


def test_it_can_still_be_asked_to_stop(workplace):
    process, terminal = start(workplace, "left", "stages=['prepare', 'train']", "train.steps=2000")
    wait_for(workplace, process, "left", events.Step, terminal)
    workers = psutil.Process(process.pid).children()
    os.close(terminal)
    while not any(isinstance(each, events.Note) and "terminal" in each.text for each in workplace.events("left")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert workplace.events("left")[-1].interrupted
    assert not psutil.wait_procs(workers, timeout=10)[1]

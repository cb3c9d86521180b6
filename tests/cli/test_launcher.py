"""Commands in processes of their own: exit codes, SIGTERM passed on, nothing started after it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lit_vision.cli import launcher
from lit_vision.cli.launcher import Launcher

CHILD = """\
import os, signal, sys, time
def stop(*_):
    open("stopped", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
open("started", "a").write(f"{sys.argv[1]} {os.environ.get('GROUP')}\\n")
time.sleep(60 if sys.argv[1] == "wait" else 0)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("child.py").write_text(CHILD)
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, "child.py"))
    return tmp_path


def test_exit_codes_and_environment(folder: Path) -> None:
    with Launcher() as one:
        assert [one.run(["0"]), one.run(["3"], GROUP="mine")] == [0, 3]
    assert Path("started").read_text() == "0 None\n3 mine\n"


def test_sigterm_ends_the_command_and_starts_no_other(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def send() -> None:
        while not Path("started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    with Launcher() as one:
        sender.start()
        with pytest.raises(SystemExit) as ended:
            one.run(["wait"])
        assert ended.value.code == 143
        assert Path("stopped").exists()  # the command itself had the signal, and its time to obey
        with pytest.raises(SystemExit):
            one.run(["0"])
    sender.join()
    assert Path("started").read_text() == "wait None\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_waits_for_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PATIENCE", 0.1)

    def send() -> None:
        while not Path("started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sender = threading.Thread(target=send)
    try:
        with Launcher() as one:
            sender.start()
            with pytest.raises(KeyboardInterrupt):
                one.run(["wait"])
    finally:
        signal.signal(signal.SIGINT, before)
    sender.join()
    assert Path("stopped").exists()

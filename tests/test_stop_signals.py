"""The signals that ask a run to stop: each sets the flag, is said at once, and leaves what it shall leave."""

import hashlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simclr_dist.stop_signals import NOTICES, STOP_SIGNALS, StopSignals, handle_stop_signals, stop_signals_later


@pytest.fixture(autouse=True)
def handlers_as_before():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_every_stop_signal_sets_the_flag_and_is_said_once_by_its_name(number):
    said: list[str] = []
    heard = threading.Event()
    with StopSignals(lambda name: (said.append(name), heard.set())) as stop:
        os.kill(os.getpid(), number)
        assert heard.wait(30)
        assert stop.has_arrived == (number not in NOTICES)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == number
    assert said == [number.name]


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_afterwards_a_notice_is_ignored_and_the_others_do_what_they_did(number):
    before = signal.getsignal(number)
    with StopSignals():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == (signal.SIG_IGN if number in NOTICES else before)


def test_a_signal_is_said_while_the_main_thread_is_in_a_librarys_code():
    flags: list[tuple[int | None, bool]] = []
    with StopSignals(lambda name: flags.append((stop.received, stop.has_arrived))) as stop:
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        while not flags:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
        sender.join()
        assert stop.received == signal.SIGTERM
    assert flags == [(None, True)]  # Python had not called the handler yet


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_what_is_done_before_a_signal_is_answered_is_done_also_where_another_thread_takes_the_signal():
    over, done = threading.Event(), []
    other = threading.Thread(target=over.wait, daemon=True)
    other.start()

    def do_it_at_a_ctrl_c() -> None:
        with stop_signals_later():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        do_it_at_a_ctrl_c()
    over.set()
    other.join()
    assert (done, signal.getsignal(signal.SIGINT)) == ([True], signal.default_int_handler)


def test_what_nohup_has_told_to_ignore_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert signal.SIGHUP not in handle_stop_signals(lambda number, frame: None)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_signal_is_answered_by_a_thread_that_runs_only_when_all_is_over():
    class Late(StopSignals):
        def _listen(self) -> None:
            time.sleep(0.3)
            super()._listen()

    said: list[str] = []
    with Late(said.append):
        os.kill(os.getpid(), signal.SIGTERM)
    assert said == ["SIGTERM"]


WAITING = """
import os, signal, time
from simclr_dist import stop_signals
stop_signals._SECONDS_TO_BEGIN = 0.0
with stop_signals.StopSignals(ends_before_begin=True) as stop:
    stop.has_begun = BEGUN
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60 if not BEGUN else 0.5)
"""


@pytest.mark.parametrize(("begun", "status"), [("False", 128 + signal.SIGTERM), ("True", 0)])
def test_a_start_that_waits_in_vain_ends_with_the_signal_and_a_run_that_has_begun_does_not(begun, status):
    command = [sys.executable, "-c", WAITING.replace("BEGUN", begun)]
    assert subprocess.run(command, timeout=50, check=False).returncode == status


ON_A_TERMINAL = """
import os, signal, sys, time
from simclr_dist.stop_signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.received:
        time.sleep(0.01)
print("on", flush=True)
print("on", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write(signal.Signals(stop.received).name)
"""


def test_when_the_terminal_is_gone_the_process_lives_on_and_may_write(tmp_path: Path):
    main, terminal = pty.openpty()
    # Under nohup SIGHUP is ignored, by children too.
    begin = "import fcntl, signal, termios\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    code = f"{begin}fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{ON_A_TERMINAL}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "end")],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    with open(main, "rb") as shown:
        assert shown.readline() == b"ready\r\n"
    # Its end is as that of the ssh session: SIGHUP, and every write an error.
    assert process.wait(30) == 0
    assert (tmp_path / "end").read_text() == "SIGHUP"

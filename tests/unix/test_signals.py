"""Masks and dispositions of this process's children, and of the programs they become."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from clusterd.unix import signals
from tests.unix.children import in_child

SHOW = [sys.executable, "-ISc", "print(open('/proc/self/status').read())"]


def sets_of(status: str) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key in ("SigBlk", "SigIgn", "SigCgt"):
            found[key] = {int(number) for number in signal.valid_signals() if int(value, 16) >> (number - 1) & 1}
    return found


def own() -> dict[str, set[int]]:
    return sets_of(Path("/proc/self/status").read_text())


def test_a_blocked_signal_waits_until_it_is_unblocked() -> None:
    def wait_for_it() -> list[Any]:
        got: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
        before = signals.block({signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        blocked = list(got)
        inside = signals.unblock({signal.SIGUSR1})
        return [signal.SIGUSR1 in before, blocked, signal.SIGUSR1 in inside, got]

    assert in_child(wait_for_it) == [False, [], True, [signal.SIGUSR1]]


def make_a_mess() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN})


def test_a_child_resets_everything_and_goes_on_ignoring_what_python_ignores() -> None:
    def reset() -> list[Any]:
        make_a_mess()
        ours, _theirs = socket.socketpair()
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        signals.reset_all()
        now = own()
        return [signal.set_wakeup_fd(-1), *(sorted(now[key]) for key in ("SigBlk", "SigIgn", "SigCgt"))]

    assert in_child(reset) == [-1, [], sorted([signal.SIGPIPE, signal.SIGXFSZ]), []]


def test_before_an_exec_nothing_stays_ignored() -> None:
    def reset() -> list[Any]:
        make_a_mess()
        signals.reset_all(to_exec=True)
        now = own()
        return [sorted(now[key]) for key in ("SigBlk", "SigIgn", "SigCgt")]

    assert in_child(reset) == [[], [], []]


def test_a_program_begins_clean_although_its_parent_blocks_and_ignores() -> None:
    def run() -> list[Any]:
        make_a_mess()
        mess = own()
        with signals.defaults_for_exec():
            status = subprocess.run(SHOW, capture_output=True, text=True, check=True).stdout
        theirs = sets_of(status)
        # Python itself ignores and handles some from its own start.
        return [
            sorted(theirs["SigBlk"]),
            sorted(theirs["SigIgn"] - {signal.SIGPIPE, signal.SIGXFSZ}),
            own() == mess,
        ]

    assert in_child(run) == [[], [], True]


def test_blocked_signals_that_wait_are_neither_lost_nor_deadly_nor_doubled() -> None:
    def run() -> list[Any]:
        got: list[int] = []
        signals.block({signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
        signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        with signals.defaults_for_exec():
            os.kill(os.getpid(), signal.SIGUSR2)
        # The one with a handler was handled; the others, without one, wait as they would have.
        waiting = signal.sigpending()
        disposition = signal.getsignal(signal.SIGTERM)
        return [got, sorted(waiting), disposition == signal.SIG_DFL]

    assert in_child(run) == [[signal.SIGUSR1], sorted([signal.SIGTERM, signal.SIGUSR2]), True]


def test_an_ignored_signal_stays_ignored_afterwards_and_one_that_came_is_dropped() -> None:
    def run() -> list[Any]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.defaults_for_exec():
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        return [signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, sorted(signal.sigpending())]

    assert in_child(run) == [True, []]


def test_a_handler_that_raises_leaves_the_dispositions_as_they_were() -> None:
    def run() -> list[Any]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signals.block({signal.SIGINT, signal.SIGTERM})
        mess = own()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            with signals.defaults_for_exec():
                entered = True
        except KeyboardInterrupt:
            entered = False
        return [entered, own() == mess]

    assert in_child(run) == [False, True]


def test_a_handler_of_c_code_is_left_alone() -> None:
    def run() -> bool:
        import faulthandler

        with open("/dev/null", "w") as sink:
            faulthandler.register(signal.SIGUSR1, file=sink)
            signals.block({signal.SIGUSR1})
            with signals.defaults_for_exec():
                pass
            kept = signal.SIGUSR1 in own()["SigCgt"]
            faulthandler.unregister(signal.SIGUSR1)
        return kept

    assert in_child(run)

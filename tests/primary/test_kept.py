"""Listening sockets that a manager keeps over the primary's death: passed back by real descriptors."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clusterd.config.address import parse_address
from clusterd.config.schema import Listener
from clusterd.primary import kept, listeners
from clusterd.unix.activation import Activation, Passed

pytestmark = pytest.mark.usefixtures("no_fd_leak")


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(configured: dict[str, Listener], closing: ExitStack) -> dict[str, listeners.Opened]:
    found = listeners.open_all(configured, Activation())
    for one in found.values():
        closing.callback(one.close)
    return found


def store(held: dict[str, int]) -> Activation:
    """What the manager passes to the next process: duplicates, inheritable."""
    passed = []
    for name, fd in held.items():
        copy = os.dup(fd)
        os.set_inheritable(copy, True)
        passed.append(Passed(copy, name))
    return Activation(tuple(passed))


def configured(**addresses: str) -> dict[str, Listener]:
    return {name: Listener(address=parse_address(address)) for name, address in addresses.items()}


def test_what_is_kept_is_taken_back_with_its_port(closing: ExitStack) -> None:
    wanted = configured(http="127.0.0.1:0", other="127.0.0.1:0")
    first = opened(wanted, closing)
    found = kept.recover(wanted, store(kept.names(first)))
    assert found.forgotten == ()
    assert found.given.passed == ()
    for name, one in found.opened.items():
        closing.callback(one.close)
        assert one.sock.getsockname() == first[name].sock.getsockname()
        assert not one.inherited
        assert not os.get_inheritable(one.sock.fileno())
    again = listeners.open_all(wanted, found.given, found.opened)
    assert again == found.opened


def test_inherited_ones_are_the_socket_units_affair(closing: ExitStack) -> None:
    sock = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
    assert kept.names({"http": listeners.Opened(sock, inherited=True)}) == {}
    activation = store({"http": sock.fileno()})
    found = kept.recover(configured(http="127.0.0.1:0"), activation)
    assert (found.opened, found.forgotten, found.given) == ({}, (), activation)
    os.close(activation.passed[0].fd)


@pytest.mark.parametrize("now", [{"http": "127.0.0.1:1"}, {"other": "127.0.0.1:0"}, {"http": "unix:@x"}])
def test_what_the_configuration_has_no_use_for_is_forgotten(now: dict[str, str], closing: ExitStack) -> None:
    first = opened(configured(http="127.0.0.1:0"), closing)
    found = kept.recover(configured(**now), store(kept.names(first)))
    assert (found.opened, found.forgotten) == ({}, ("kept@http",))


def test_of_two_of_one_name_the_first_that_fits_is_taken(closing: ExitStack) -> None:
    wanted = configured(http="127.0.0.1:0")
    first, second = opened(wanted, closing), opened(wanted, closing)
    passed = store(kept.names(first)).passed + store(kept.names(second)).passed
    found = kept.recover(wanted, Activation(passed))
    closing.callback(found.opened["http"].close)
    assert found.opened["http"].sock.getsockname() == first["http"].sock.getsockname()
    assert found.forgotten == ("kept@http",)


def test_a_unix_socket_comes_back_with_its_file_and_not_without(closing: ExitStack, run_dir: Path) -> None:
    path = run_dir / "s"
    wanted = configured(local=f"unix:{path}")
    first = opened(wanted, closing)
    names = kept.names(first)
    found = kept.recover(wanted, store(names))
    bound = found.opened["local"].bound
    assert bound is not None
    assert bound.file == (path.stat().st_dev, path.stat().st_ino)
    found.opened["local"].sock.close()
    path.unlink()
    gone = kept.recover(wanted, store(names))
    path.touch()  # another's
    replaced = kept.recover(wanted, store(names))
    assert gone.opened == replaced.opened == {}
    assert gone.forgotten == replaced.forgotten == tuple(names)


def test_garbage_under_our_name_is_forgotten(closing: ExitStack) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    closing.callback(os.close, null)
    activation = store({"kept@http": null, "kept@": null, "kept@http@1.2": null})
    found = kept.recover(configured(http="127.0.0.1:0"), activation)
    assert (found.opened, len(found.forgotten)) == ({}, 3)
    for one in activation.passed:
        os.close(one.fd)  # what is no socket stays open, as for every other descriptor that was passed

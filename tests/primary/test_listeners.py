"""Which listener gets which passed socket, what is bound, and what is taken away at the end."""

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterd.config import load
from clusterd.config.address import parse_address
from clusterd.config.schema import Listener
from clusterd.errors import HostError
from clusterd.primary import passed
from clusterd.primary.box import Box
from clusterd.primary.listeners import Listeners, Opened, open_all
from clusterd.unix import mail
from clusterd.unix.activation import Activation, Passed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_fd_leak")]

ABSTRACT = f"@clusterd-test-{os.getpid()}"


def sock_at(place: tuple[str, int] | str, *, v6only: bool = False) -> socket.socket:
    """A listening socket, as a manager has it."""
    if isinstance(place, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("\0" + place[1:] if place.startswith("@") else place)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
        if ":" in place[0]:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind(place)
    sock.listen(16)
    return sock


class Manager:
    """Has sockets, and passes them as exec would leave them: open, blocking, inheritable."""

    def __init__(self) -> None:
        self.held: list[socket.socket] = []
        self.passed: list[Passed] = []

    def has(self, place: tuple[str, int] | str, name: str = "", *, v6only: bool = False) -> int:
        """Returns its port; 0 of a unix socket."""
        self.held.append(sock_at(place, v6only=v6only))
        fd = os.dup(self.held[-1].fileno())
        os.set_inheritable(fd, True)
        self.passed.append(Passed(fd, name))
        where = self.held[-1].getsockname()
        return int(where[1]) if isinstance(where, tuple) else 0

    def open(self, **addresses: str) -> dict[str, str]:
        """``open_all`` with these listeners; where each of them really is, ``*`` before the inherited ones."""
        opened = open_all(declared(**addresses), Activation(tuple(self.passed)))
        try:
            return {
                name: ("*" if one.inherited else "") + passed.show(one.sock.getsockname())
                for name, one in opened.items()
            }
        finally:
            for one in opened.values():
                one.close()


def declared(**addresses: str) -> dict[str, Listener]:
    return {name: Listener(address=parse_address(text)) for name, text in addresses.items()}


@pytest.fixture
def manager() -> Iterator[Manager]:
    it = Manager()
    yield it
    for sock in it.held:
        sock.close()


class TestPassed:
    """The matching of what was passed."""

    def test_a_name_counts_more_than_an_address(self, manager: Manager) -> None:
        one = manager.has(("127.0.0.1", 0), "admin")
        two = manager.has(("127.0.0.1", 0), "http")
        found = manager.open(http=f"127.0.0.1:{one}", admin=f"127.0.0.1:{two}")
        assert found == {"http": f"*127.0.0.1:{two}", "admin": f"*127.0.0.1:{one}"}

    def test_systemds_default_name_is_the_units(self, manager: Manager) -> None:
        one, two = manager.has(("127.0.0.1", 0), "b.socket"), manager.has(("127.0.0.1", 0), "a.socket")
        assert manager.open(a=":0", b=":0") == {"a": f"*127.0.0.1:{two}", "b": f"*127.0.0.1:{one}"}

    def test_of_several_with_one_name_the_address_chooses(self, manager: Manager) -> None:
        manager.has(("127.0.0.1", 0), "http")
        two = manager.has(("127.0.0.1", 0), "http")
        three = manager.has(("::1", 0), "http")
        first = manager.held[0].getsockname()[1]
        found = manager.open(http=f"127.0.0.1:{two}", six=f"[::1]:{three}", more=f"127.0.0.1:{first}")
        assert found == {"http": f"*127.0.0.1:{two}", "six": f"*[::1]:{three}", "more": f"*127.0.0.1:{first}"}

    def test_of_several_with_one_name_none_is_guessed(self, manager: Manager) -> None:
        manager.has(("127.0.0.1", 0), "http")
        manager.has(("127.0.0.1", 0), "http")
        with pytest.raises(HostError, match=r"^of several sockets that were passed for listener http .* none fits"):
            manager.open(http="127.0.0.1:1")

    @pytest.mark.parametrize(
        ("host", "place", "v6only", "fits"),
        [
            ("127.0.0.1", "127.0.0.1", False, True),
            ("127.0.0.1", "127.0.0.2", False, False),
            ("127.0.0.1", "0.0.0.0", False, False),
            ("127.0.0.1", "::ffff:127.0.0.1", False, True),
            ("localhost", "127.0.0.1", False, True),
            ("[::1]", "::1", False, True),
            ("[::1]", "::", False, False),
            ("", "::", False, True),
            ("", "::", True, False),
            ("", "0.0.0.0", False, True),
            ("", "127.0.0.1", False, False),
            ("[::]", "::", False, True),
            ("[::]", "::", True, True),
            ("[::]", "0.0.0.0", False, False),
            ("0.0.0.0", "0.0.0.0", False, True),
            ("0.0.0.0", "::", False, False),
            ("no-such-host.invalid", "127.0.0.1", False, False),
        ],
    )
    def test_an_address_fits_as_documented(
        self, manager: Manager, host: str, place: str, v6only: bool, fits: bool
    ) -> None:
        port = manager.has((place, 0), v6only=v6only)
        wanted = {"a": parse_address(f"{host}:{port}"), "b": parse_address("unix:/nowhere")}
        candidate = passed.Candidate(manager.passed[0], manager.held[0])
        if fits:
            assert passed.match([candidate], wanted) == {"a": manager.held[0]}
            assert passed.match([candidate], {"b": wanted["b"], "a": wanted["a"]}) == {"a": manager.held[0]}
        else:
            with pytest.raises(HostError, match="no listener fits"):
                passed.match([candidate], wanted)
        os.close(manager.passed[0].fd)

    def test_a_port_of_two_families_is_two_listeners(self, manager: Manager) -> None:
        port = manager.has(("0.0.0.0", 0))
        manager.has(("::", port), v6only=True)
        found = manager.open(four=f"0.0.0.0:{port}", six=f"[::]:{port}")
        assert found == {"four": f"*0.0.0.0:{port}", "six": f"*[::]:{port}"}

    def test_a_path_fits_through_a_link(self, manager: Manager, run_dir: Path) -> None:
        (run_dir / "real").mkdir()
        (run_dir / "link").symlink_to("real")
        manager.has(str(run_dir / "real" / "s"))
        manager.has(ABSTRACT)
        found = manager.open(a=f"unix:{run_dir}/link/s", b=f"unix:{ABSTRACT}")
        assert found == {"a": f"*unix:{run_dir}/real/s", "b": f"*unix:{ABSTRACT}"}
        assert (run_dir / "real" / "s").exists(), "it is the manager's"

    def test_a_single_socket_fits_a_single_listener_whatever_its_address(self, manager: Manager) -> None:
        port = manager.has(("127.0.0.1", 0), "whatever")
        assert manager.open(http="127.0.0.1:8000") == {"http": f"*127.0.0.1:{port}"}

    def test_listeners_without_a_socket_are_bound(self, manager: Manager, run_dir: Path) -> None:
        port = manager.has(("127.0.0.1", 0), "http")
        found = manager.open(http=":0", local=f"unix:{run_dir}/s")
        assert found == {"http": f"*127.0.0.1:{port}", "local": f"unix:{run_dir}/s"}

    def test_what_nobody_wants_is_named(self, manager: Manager) -> None:
        one, two = manager.has(("127.0.0.1", 0), "http"), manager.has(("127.0.0.1", 0), "other")
        fd = manager.passed[1].fd
        with pytest.raises(HostError) as caught:
            manager.open(http=f"127.0.0.1:{one}", more="127.0.0.1:0")
        assert str(caught.value).startswith(
            f"descriptor {fd} (LISTEN_FDS, named 'other'), listening on 127.0.0.1:{two}: no listener fits."
            " Listeners without a socket: more (127.0.0.1:0)."
        )

    def test_what_is_no_listening_stream_socket_is_named(self, manager: Manager) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            fd = os.dup(other.fileno())
        os.set_inheritable(fd, True)
        manager.passed.append(Passed(fd, "dns"))
        with pytest.raises(
            HostError, match=rf"^descriptor {fd} \(LISTEN_FDS, named 'dns'\) is a socket of type SOCK_D"
        ):
            manager.open(http=":0")
        os.close(fd)

    def test_a_listener_by_number_has_said_which(self, manager: Manager) -> None:
        one, two = manager.has(("127.0.0.1", 0), "http"), manager.has(("127.0.0.1", 0), "b")
        found = manager.open(a=f"fd:{manager.passed[0].fd}", b=":0")
        assert found == {"a": f"*127.0.0.1:{one}", "b": f"*127.0.0.1:{two}"}


class TestOpening:
    """What is bound."""

    def test_what_was_opened_is_closed_and_taken_away_when_the_next_cannot_be_had(
        self, manager: Manager, run_dir: Path
    ) -> None:
        port = manager.has(("127.0.0.1", 0), "b")
        with pytest.raises(HostError, match="the port is in use"):
            manager.open(a=f"unix:{run_dir}/s", b=":0", c=f"127.0.0.1:{port}")
        assert os.listdir(run_dir) == []

    def test_mode_and_owner_come_from_the_configuration(self, run_dir: Path) -> None:
        me = os.getuid()
        text = f"""
            [listeners.http]
            address = "unix:s"
            mode = "0640"
            user = {me}
            group = {os.getgid()}
            [pools.web]
            app = "shop:app"
        """
        config = load(text, file=str(run_dir / "shop.toml"), environ={}).config
        opened = open_all(config.listeners, Activation())
        assert os.stat(run_dir / "s").st_mode & 0o777 == 0o640
        assert os.stat(run_dir / "s").st_uid == me
        opened["http"].close()
        assert os.listdir(run_dir) == []

    def test_an_inherited_number_that_is_not_there_names_the_listener(self) -> None:
        with pytest.raises(HostError, match=r"^listener http: descriptor 999 is not open: whoever starts this process"):
            open_all(declared(http="fd:999"), Activation())


@contextmanager
def of_all(opened: Mapping[str, Opened]) -> Iterator[Listeners]:
    loop = asyncio.new_event_loop()
    listeners = Listeners(loop, opened, pytest.fail, pytest.fail)

    def close() -> None:
        listeners.close(True, loop.stop)

    try:
        yield listeners
        loop.call_soon(close)
        loop.run_forever()
    finally:
        for dispatch in listeners.dispatch.values():
            dispatch.discard()
        loop.close()


def test_workers_are_told_addresses_as_node_has_them(run_dir: Path) -> None:
    opened = open_all(
        declared(v4="127.0.0.1:0", v6="[::1]:0", path=f"unix:{run_dir}/s", abstract=f"unix:{ABSTRACT}"), Activation()
    )
    ports: dict[str, Any] = {name: opened[name].sock.getsockname()[1] for name in ("v4", "v6")}
    with of_all(opened) as listeners:
        assert listeners.socknames == {
            "v4": ("127.0.0.1", ports["v4"]),
            "v6": ("::1", ports["v6"]),
            "path": (f"{run_dir}/s", -1),
            "abstract": (ABSTRACT, -1),
        }
        assert listeners.addresses == {
            "v4": f"127.0.0.1:{ports['v4']}",
            "v6": f"[::1]:{ports['v6']}",
            "path": f"unix:{run_dir}/s",
            "abstract": f"unix:{ABSTRACT}",
        }
    assert os.listdir(run_dir) == []


def test_a_sharer_that_made_it_blocking_again_does_not_hang_the_close(manager: Manager) -> None:
    port = manager.has(("127.0.0.1", 0))
    writing, reading = mail.pair()
    outbox, inbox = mail.Outbox(writing), mail.Inbox(reading)
    opened = open_all(declared(a=f"127.0.0.1:{port}"), Activation(tuple(manager.passed)))
    with socket.create_connection(("127.0.0.1", port)), of_all(opened) as listeners:
        listeners.dispatch["a"].add(Box(1, outbox))
        manager.held[0].setblocking(True)
    taken = inbox.take()
    assert taken is not None
    assert taken.fd is not None
    os.close(taken.fd)
    outbox.close()
    inbox.close()


def test_an_inherited_socket_goes_on_listening_for_who_holds_it_too(manager: Manager, run_dir: Path) -> None:
    port = manager.has(("127.0.0.1", 0))
    manager.has(str(run_dir / "s"))
    with of_all(open_all(declared(a=f"127.0.0.1:{port}", b=f"unix:{run_dir}/s"), Activation(tuple(manager.passed)))):
        pass
    for held in manager.held:
        with socket.socket(held.family) as client:
            client.settimeout(5)
            client.connect(held.getsockname())
            held.settimeout(5)
            taken, _ = held.accept()
            taken.close()

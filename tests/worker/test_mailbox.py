"""Taking connections: real mailboxes and sockets, both event loops, and a process of its own at its limits."""

import asyncio
import logging
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from clusterd.unix import mail
from clusterd.wire import mail as letters
from clusterd.wire.mail import Letter
from clusterd.wire.rows import ACCEPTED, HANDOVER, TAKEN_MAILBOXES, TAKEN_NS, WORDS, Row
from clusterd.worker.mailbox import MAX_UNREAD, Intake, Token
from clusterd.worker.options import Door, Inboxed
from clusterd.worker.sockets import handed
from tests.procfs import wait_for
from tests.worker.engine import IMPLEMENTATIONS, Engine, read_until, timed

pytestmark = pytest.mark.usefixtures("no_fd_leak")


class Bench:
    """An intake on a loop that the test turns, and both ends of what it takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, boxes: int = 1) -> None:
        self.loop = loop
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        pairs = [mail.pair() for _ in range(boxes)]
        self.outboxes = [mail.Outbox(writing) for writing, _ in pairs]
        self.fds = [reading for _, reading in pairs]
        self.row = memoryview(bytearray(WORDS * 8)).cast("Q")
        self.taken: list[tuple[socket.socket, Letter, Token]] = []
        self.ends = 0
        self.clients: list[socket.socket] = []
        self.on_taken: Callable[[Token], None] | None = None
        inboxed = [Inboxed(f"http{number}", fd, ("127.0.0.1", 80)) for number, fd in enumerate(self.fds)]
        self.intake = Intake(loop, inboxed, self._taken, self._ended, self.row)
        self.intake.start()

    def _taken(self, sock: socket.socket, letter: Letter, token: Token, door: Door) -> None:
        self.taken.append((sock, letter, token))
        if self.on_taken is not None:
            self.on_taken(token)

    def _ended(self) -> None:
        self.ends += 1

    def connect(self, data: bytes = b"", box: int = 0) -> socket.socket:
        client = socket.create_connection(self.listener.getsockname())
        self.clients.append(client)
        client.sendall(data)
        accepted, (host, port) = self.listener.accept()
        with accepted:
            posted = self.outboxes[box].post(letters.pack(host, port, time.monotonic_ns()), accepted.fileno())
            assert posted is mail.Posted.SENT
        return client

    def turn(self, seconds: float = 0.0) -> None:
        """Lets the loop turn: a few times, or for as long."""

        async def turning() -> None:
            await asyncio.sleep(seconds)
            for _ in range(10):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turning())

    def turn_until(self, condition: Callable[[], bool], deadline: float = 5) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, "it did not come true"
            self.turn(0.005)

    def close(self) -> None:
        for sock, _, token in self.taken:
            token.read()
            sock.close()
        self.intake.close()
        for client in self.clients:
            client.close()
        for outbox in self.outboxes:
            outbox.close()
        self.listener.close()


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_uvloop().close()  # its first loop leaves libuv's pipe for signals open, for all loops to come


@pytest.fixture(params=[asyncio.new_event_loop, _uvloop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    made: asyncio.AbstractEventLoop = request.param()
    yield made
    made.close()


@pytest.fixture
def bench(loop: asyncio.AbstractEventLoop) -> Iterator[Bench]:
    made = Bench(loop)
    yield made
    made.close()


# -- the gate --------------------------------------------------------------------------------------------------------


def test_of_each_mailbox_it_is_told_which_mail_was_taken_last(loop: asyncio.AbstractEventLoop) -> None:
    boxes = TAKEN_MAILBOXES + 2
    bench = Bench(loop, boxes)
    try:
        for box in range(boxes):
            bench.connect(b"x", box=box)
            bench.turn_until(lambda: len(bench.taken) == 1)
            sock, letter, token = bench.taken.pop()
            token.read()
            sock.close()
            told = bench.row[TAKEN_NS : TAKEN_NS + TAKEN_MAILBOXES].tolist()
            assert (letter.accepted_ns in told) == (box < TAKEN_MAILBOXES), "all further ones share a word behind them"
            assert box >= TAKEN_MAILBOXES or told[box] == letter.accepted_ns
        assert not any(bench.row[ACCEPTED:].tolist())
    finally:
        bench.close()


def test_a_connection_is_taken_with_its_papers_and_counted(bench: Bench) -> None:
    client = bench.connect(b"hi")
    bench.turn()
    ((sock, letter, token),) = bench.taken
    assert (letter.host, letter.port) == client.getsockname()
    assert sock.recv(2) == b"hi"
    assert (bench.row[Row.CONNECTIONS_TAKEN], bench.row[Row.CONNECTIONS_UNREAD]) == (1, 1)
    assert sum(bench.row[word] for word in HANDOVER.buckets) == 1
    assert 0 < bench.row[HANDOVER.sum_ns] < 5e9
    token.read()
    token.read()
    assert bench.row[Row.CONNECTIONS_UNREAD] == 0


def test_no_more_than_two_are_taken_until_one_is_read(bench: Bench) -> None:
    for _ in range(5):
        bench.connect(b"hi")
    for read in range(3):
        bench.turn(0.12)  # none of them is silent, so time opens nothing
        assert len(bench.taken) == MAX_UNREAD + read
        assert bench.row[Row.CONNECTIONS_UNREAD] == MAX_UNREAD
        bench.taken[read][2].read()
    assert len(bench.taken) == 5  # taken at once, without a turn of the loop


def test_a_silent_client_counts_no_more_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.worker.mailbox.SILENT_AFTER", 0.4)  # a busy machine may well take 50 ms for a turn
    began = time.monotonic()
    for _ in range(6):
        bench.connect()
    bench.turn()
    assert len(bench.taken) == 2
    bench.turn_until(lambda: len(bench.taken) == 6)
    assert 0.8 <= time.monotonic() - began < 8


def test_a_client_that_leaves_without_a_word_is_waited_for_by_nobody(bench: Bench) -> None:
    for _ in range(4):
        bench.connect().close()
    bench.turn()
    for _, _, token in bench.taken[:2]:
        token.read()  # as connection_lost does
    bench.turn()
    assert len(bench.taken) == 4


def test_a_shut_gate_with_mail_before_it_costs_nothing(bench: Bench) -> None:
    for _ in range(4):
        bench.connect(b"hi")
    bench.turn()
    before = time.process_time()
    bench.turn(0.4)
    assert time.process_time() - before < 0.1
    assert len(bench.taken) == 2
    for number in range(4):
        bench.taken[number][2].read()
        bench.turn()
    bench.connect(b"hi")  # the mailbox is watched again
    bench.turn()
    assert len(bench.taken) == 5


def test_two_mailboxes_share_the_gate_and_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, boxes=2)
    for box in (0, 0, 0, 1, 1, 1):
        bench.connect(b"hi", box)
    ports = [client.getsockname()[1] for client in bench.clients]
    bench.turn()
    assert len(bench.taken) == 2
    for number in range(4):
        bench.taken[number][2].read()
        bench.turn()
        assert bench.row[Row.CONNECTIONS_UNREAD] == 2
    order = [ports.index(letter.port) // 3 for _, letter, _ in bench.taken]
    assert sorted(order[:4]) == [0, 0, 1, 1]
    bench.close()


# -- odd mail --------------------------------------------------------------------------------------------------------


def test_a_probe_is_taken_and_means_nothing(bench: Bench) -> None:
    bench.outboxes[0].post(letters.PROBE)
    bench.connect(b"hi")
    bench.turn()
    assert len(bench.taken) == 1
    assert bench.outboxes[0].queued() == 0
    assert bench.intake.garbage == 0


def test_mail_that_is_no_letter_is_closed_counted_and_told_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    for payload in (b"\xff", b"\x01", b"\x01" + b"\xff" * 100):
        bench.outboxes[0].post(payload, theirs.fileno())
    theirs.close()
    bench.connect(b"hi")
    bench.turn()
    assert ours.recv(1) == b""  # every copy is closed
    ours.close()
    assert bench.intake.garbage == 3
    assert len(bench.taken) == 1
    assert len([record for record in caplog.records if "not what it should be" in record.message]) == 1


def test_what_is_no_socket_is_refused(bench: Bench) -> None:
    reading, writing = os.pipe()
    bench.outboxes[0].post(letters.pack("127.0.0.1", 1, 1), writing)
    os.close(writing)
    bench.turn()
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert (bench.taken, bench.intake.garbage) == ([], 1)


def test_a_connection_that_cannot_be_served_is_closed_and_does_not_hold_the_gate(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(token: Token) -> None:
        bench.taken.clear()
        raise RuntimeError("no")

    bench.on_taken = refuse
    clients = [bench.connect(b"hi") for _ in range(4)]
    bench.turn()
    for client in clients:
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):  # its "hi" was never read
            client.recv(1)
    assert bench.row[Row.CONNECTIONS_UNREAD] == 0
    assert "could not be served" in caplog.text


# -- the end ---------------------------------------------------------------------------------------------------------


def test_at_the_end_the_mail_is_read_first_and_the_descriptor_falls_silent(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, boxes=2)
    bench.on_taken = lambda token: token.read()
    for _ in range(5):
        bench.connect(b"hi")
    bench.outboxes[0].close()
    bench.turn()
    assert (len(bench.taken), bench.ends, bench.intake.ended) == (5, 0, False)
    bench.connect(b"hi", box=1)
    bench.outboxes[1].close()
    bench.turn()
    assert (len(bench.taken), bench.ends, bench.intake.ended) == (6, 1, True)
    poll = select.poll()
    for fd in bench.fds:
        poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    bench.turn(0.1)
    assert bench.ends == 1
    bench.close()


def test_an_intake_without_mailboxes_has_ended(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, boxes=0)
    assert (bench.ends, bench.intake.ended) == (1, True)
    bench.close()


# -- shortage --------------------------------------------------------------------------------------------------------


def test_without_a_spare_descriptor_nothing_is_taken_and_nothing_lost(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    bench.on_taken = lambda token: token.read()
    for _ in range(5):
        bench.connect(b"hi")
    fillers: list[int] = []

    async def shortage() -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        os.close(fillers.pop())  # with the reserve: room for one connection and the reserve, or for two connections
        await asyncio.sleep(0.15)
        assert (len(bench.taken), bench.intake.lost) == (2, 0)
        while fillers:
            os.close(fillers.pop())
        end = time.monotonic() + 5
        while len(bench.taken) < 5:
            assert time.monotonic() < end, "nothing is taken again"
            await asyncio.sleep(0.005)

    try:
        bench.loop.run_until_complete(shortage())
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert bench.intake.lost == 0
    (told,) = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "Too many open files" in told


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_worker_at_its_limit_of_descriptors_serves_everyone_in_the_end(implementation: str) -> None:
    prepare = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with Engine(implementation, prepare=prepare, options={"keep_alive": 30}) as engine:
        engine.ready()
        clients = []
        while not engine.outboxes[0].full or len(os.listdir(f"/proc/{engine.pid}/fd")) < 64:
            if engine.outboxes[0].full:
                select.select([], [], [], 0.005)
            else:
                clients.append(engine.connect(request))
        assert 20 < engine.row(Row.CONNECTIONS_TAKEN) < 64
        for client in clients:
            read_until(client, b"hello")
            client.close()
        wait_for(lambda: engine.row(Row.CONNECTIONS_OPEN) == 0, 5)
        assert engine.row(Row.CONNECTIONS_TAKEN) == len(clients)
        engine.drain()
        code, _, err = engine.ended()
    assert code == 0
    assert err.count("no connections are taken for now") == 1
    assert "lost" not in err


# -- with the engine behind it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_twenty_silent_clients_do_not_keep_the_next_waiting(implementation: str) -> None:
    with Engine(implementation) as engine:
        engine.ready()
        for _ in range(20):
            engine.connect()
        assert timed(lambda: engine.get().read()) < 5  # half a second: two at a time are found silent


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_blocked_worker_has_taken_two_and_the_rest_can_be_read_back(implementation: str) -> None:
    app = """
import time
async def app(scope, receive, send):
    assert scope["type"] == "http"
    time.sleep(1.5)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""
    with Engine(implementation, app=app) as engine:
        engine.ready()
        engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: engine.row(Row.CONNECTIONS_TAKEN) == 1 and engine.row(Row.CONNECTIONS_UNREAD) == 0, 5)
        for _ in range(5):
            engine.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        inbox = mail.Inbox(os.dup(engine.inboxes[0]))
        back = mail.drain(inbox)
        inbox.close()
        assert len(back) >= 5 - MAX_UNREAD
        assert engine.row(Row.CONNECTIONS_UNREAD) <= MAX_UNREAD
        assert engine.row(Row.CONNECTIONS_TAKEN) == 6 - len(back)
        for item in back:
            if item.fd is not None:
                os.close(item.fd)


def test_a_connection_is_a_socket_of_pythons_own_kind_which_uvloop_closes_once() -> None:
    near, far = socket.socketpair()
    with near, far:
        sock = handed(-1, -1, -1, near.detach())
        assert isinstance(sock, socket.socket)
        assert (sock.family, sock.type) == (int(socket.AF_UNIX), int(socket.SOCK_STREAM))
        sock.makefile("rb").close()  # counts who else uses it
        sock.close()
        assert sock.fileno() == -1
        assert far.recv(1) == b""

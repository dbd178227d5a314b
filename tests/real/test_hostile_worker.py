"""The primary does not trust its workers: what one does to channel, mailbox and scoreboard hurts nobody else."""

import http.client

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, Launcher, merged
from tests.real.looking import AT_ONCE, app, ask, pids_of, start, zombies

TOOLS = """
import mmap, os, select, signal, socket, threading

def channel():
    from clusterd.worker import link
    return link.current._talk._stream._socket

def named(what):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if what in os.readlink("/proc/self/fd/" + name):
                found.append(int(name))
        except OSError:
            continue
    return found

def mailbox():
    boxes = [socket.socket(fileno=os.dup(fd)) for fd in named("socket:")]
    return next(box for box in boxes if box.type == socket.SOCK_SEQPACKET)

def flood(piece):
    own = socket.socket(fileno=os.dup(channel().fileno()))
    def send():
        for number in range(10**9):
            view = memoryview(piece(number))
            while view:
                select.select([], [own], [])
                try:
                    view = view[own.send(view):]
                except BlockingIOError:
                    continue
                except OSError:
                    return
    threading.Thread(target=send, daemon=True).start()

def truncate():
    try:
        os.ftruncate(named("scoreboard")[0], 0)
    except OSError as error:
        return error.strerror

def lie():
    size = os.fstat(named("scoreboard")[0]).st_size
    with mmap.mmap(named("scoreboard")[0], size) as board:
        board[:] = b"\\x7f" * size

def ready_again():
    from clusterd.worker import link
    link.current.ready()
    link.current.ready()

async def answer(path):
    return globals()[path[1:]]() if path != "/" else os.getpid()
"""

LEAVES = """b'{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":%d}\\n'"""

HOSTILE = [
    'channel().send(b"\\x00\\xff garbage\\n")',
    """channel().send(b'{"cmd":"NODE_CL'), channel().send(b"another line\\n")""",
    'channel().send(b"[" * 50000 + b"\\n")',
    'flood(lambda number: b"x" * 65536)',
    f"flood(lambda number: {LEAVES} % number * 1000)",
    "os.close(channel().fileno())",
    "channel().shutdown(socket.SHUT_RDWR)",
    "channel().shutdown(socket.SHUT_WR)",
    "mailbox().shutdown(socket.SHUT_RDWR)",
    "os.kill(os.getpid(), signal.SIGABRT)",
]
"""Each of these ends the worker that does it."""

HARMLESS = [
    "return truncate()",
    "return lie()",
    "mailbox().setblocking(True)",
    "os.set_blocking(channel().fileno(), True), os.set_blocking(channel().fileno(), False)",
    '[os.set_blocking(fd, True) for fd in named("pipe:")]',
    "return ready_again()",
    """channel().send(b'{"cmd":"NODE_HANDLE_ACK"}\\n{"cmd":"NODE_HANDLE_NACK"}\\n')""",
    """channel().send(b'{"cmd":"NODE_CLUSTER","ack":3}\\n{"cmd":"NODE_CLUSTER","act":"sing"}\\n')""",
    """channel().send(b'{"cmd":"NODE_HANDLE","type":"net.Native","msg":{}}\\n')""",
    'channel().send(b"[[[[{}]]]]\\n7\\nnull\\n")',
    'socket.send_fds(channel(), [b"{}\\n"], [0, 1, 2])',
    "mailbox().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)",
]
"""After each of these the worker goes on serving."""


def hostile(deeds: list[str]) -> str:
    return app("\n".join([TOOLS, *(f"def deed_{number}():\n    {deed}\n" for number, deed in enumerate(deeds))]))


def test_a_worker_that_breaks_the_rules_is_replaced_and_the_primary_goes_on(launcher: Launcher) -> None:
    settings = {
        "shutdown": {"drain_timeout": "300ms", "linger": "100ms"},
        "pools": {"web": {"restart": {"give_up_after": 0}}},
    }
    service = start(launcher, hostile(HOSTILE), merged(AT_ONCE, settings))
    for number, deed in enumerate(HOSTILE):
        before = pids_of(service)
        mark = service.mark()
        try:
            ask(service, f"/deed_{number}", timeout=5)
        except (OSError, ValueError, http.client.HTTPException):
            pass  # the worker may die before it has answered
        for _ in range(2):
            try:
                with service.connect(timeout=5) as connection:  # a connection finds out what a mailbox is worth
                    connection.send(b"GET / HTTP/1.0\r\n\r\n")
                    connection.recv(65536)
            except OSError:
                pass  # it was taken by the one that dies
        exited = service.wait_log("worker_exited", after=mark)
        service.wait_log("worker_ready", after=mark, slot=exited["slot"])
        now = pids_of(service)
        assert len(now.keys() & before.keys()) == 1, deed
        wait_for(lambda: {ask(service) for _ in range(4)} == set(pids_of(service).values()), DEADLINE, f"both ({deed})")
        assert service.health("/livez").status == 200, deed
    assert zombies(service.pid) == []


def test_what_a_worker_can_do_to_what_it_shares_hurts_nobody(launcher: Launcher) -> None:
    service = start(launcher, hostile(HARMLESS))
    before = pids_of(service)
    for number, deed in enumerate(HARMLESS):
        answer = ask(service, f"/deed_{number}")
        assert "truncate" not in deed or answer == "Operation not permitted"
        assert service.metrics().value("clusterd_ready") == 1, deed
        wait_for(lambda: {ask(service) for _ in range(8)} == set(before.values()), DEADLINE, f"both ({deed})")
        assert service.control("/v1/status").status == 200
    assert pids_of(service) == before

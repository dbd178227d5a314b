"""The fork that hands connections on while the primary is away: real sockets, real mailboxes."""

import asyncio
import os
from collections import Counter

from clusterd.primary import caretaker
from clusterd.unix import pidfd, sockets
from clusterd.unix.mail import Posted
from clusterd.wire import mail as letters
from tests.primary.test_dispatch import scene, until
from tests.procfs import wait_for

DEADLINE = 10.0


def reap(pid: int) -> str:
    fd = pidfd.open_pidfd(pid)
    try:
        wait_for(lambda: pidfd.peek(fd), DEADLINE, "the end of the caretaker")
        return str(pidfd.wait(fd))
    finally:
        os.close(fd)


def test_it_hands_on_in_turn_where_the_primary_stood_and_ends_with_its_pipe() -> None:
    async def run() -> None:
        with scene(3) as here:
            here.connect(1)
            here.dispatch._readable()  # the first has had its turn
            assert here.handed() == [1, 0, 0]
            charge = here.boxes[0].outbox.queued()
            pid, pipe, counts = caretaker.fork([here.dispatch])
            here.connect(4)
            boxes = [here.boxes[worker].outbox for worker in (0, 1, 2)]
            wait_for(lambda: sum(box.queued() for box in boxes) == 5 * charge, DEADLINE, "all of them in mailboxes")
            os.close(pipe)
            assert reap(pid) == "exit code 0"
            taken: dict[int, list[int]] = {0: [], 1: [], 2: []}
            for worker, found in taken.items():
                while (port := here.take(worker)) is not None:
                    found.append(port)
            ports = [client.getsockname()[1] for client in here.clients]
            assert (taken[0][0], taken[1][0], taken[2][0]) == (ports[0], ports[1], ports[2])
            assert sorted(port for found in taken.values() for port in found) == sorted(ports)
            caretaker.hear(asyncio.get_running_loop(), counts, {box.fd: box for box in here.boxes.values()})
            await until(lambda: sum(here.handed()) == 5)
            assert here.handed() == [2, 2, 1]

    asyncio.run(run())


def test_where_nobody_has_room_connections_stay_in_the_kernels_queue() -> None:
    async def run() -> None:
        with scene(0) as here:
            pid, pipe, counts = caretaker.fork([here.dispatch])
            here.connect(3)
            os.close(pipe)
            assert reap(pid) == "exit code 0"
            here.join(1)
            for _ in range(3):
                here.dispatch._readable()
            assert here.handed() == [3]
            os.close(counts)


def test_one_that_is_killed_has_counted_nothing() -> None:
    async def run() -> None:
        with scene(1) as here:
            pid, pipe, counts = caretaker.fork([here.dispatch])
            here.connect(2)
            wait_for(here.boxes[0].outbox.queued, DEADLINE, "a connection in the mailbox")
            os.kill(pid, 9)
            assert reap(pid) == "signal 9 (SIGKILL)"
            caretaker.hear(asyncio.get_running_loop(), counts, {box.fd: box for box in here.boxes.values()})
            await until(lambda: not is_open(counts))
            assert here.handed() == [0]
            os.close(pipe)

    asyncio.run(run())


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_it_has_accepted_and_nobody_could_take_then_waits_for_room() -> None:
    """It looks for room before it accepts; that may be gone by then, and the connection is no less ours."""

    async def run() -> None:
        with scene(1) as here:
            turn = caretaker._Turn(here.dispatch, counted := Counter[int]())
            here.connect(1)
            accepted = sockets.accept(here.dispatch.sock)
            assert accepted is not None
            fd, (_, port) = accepted[0], here.clients[0].getsockname()
            outbox = here.boxes[0].outbox
            while outbox.post(letters.pack("", 0, 0), fd) is Posted.SENT:  # others were faster
                pass
            turn._held = letters.pack("127.0.0.1", port, 0), fd
            assert not turn.post()
            here.connect(1)
            assert not turn.serve(), "nothing more is accepted meanwhile"
            while here.take(0) is not None:
                pass
            assert turn.post()
            assert not turn.holds
            assert sum(counted.values()) == 1
            assert here.take(0) == port

    asyncio.run(run())

    asyncio.run(run())

"""The fork that hands connections on while the primary is away: real sockets, real mailboxes."""

import asyncio
import os

from clusterd.primary import caretaker
from clusterd.unix import pidfd
from tests.primary.test_dispatch import scene
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
            pid, pipe = caretaker.fork([here.dispatch])
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

    asyncio.run(run())


def test_where_nobody_has_room_connections_stay_in_the_kernels_queue() -> None:
    async def run() -> None:
        with scene(0) as here:
            pid, pipe = caretaker.fork([here.dispatch])
            here.connect(3)
            os.close(pipe)
            assert reap(pid) == "exit code 0"
            here.join(1)
            for _ in range(3):
                here.dispatch._readable()
            assert here.handed() == [3]

    asyncio.run(run())

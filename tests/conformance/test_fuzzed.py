"""Any bytes that a worker writes to its channel leave the primary of a plain program serving."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd.wire.acts import Act
from tests.conformance.programs import DEADLINE, environment, write
from tests.procfs import processes_marked, wait_for

PRIMARY = """
if cluster.is_primary:
    info = None

    async def served():
        reader, writer = await asyncio.open_connection("127.0.0.1", info.port)
        writer.write(b"ping")
        answer = await asyncio.wait_for(reader.readexactly(4), 30)
        writer.close()
        return answer == b"ping"

    async def ordered(reader, writer):
        while line := await reader.readline():
            if line == b"end\\n":
                cluster.disconnect()
                break
            worker = cluster.fork({"BYTES": line.decode().strip()})
            over = asyncio.get_running_loop().create_future()
            worker.on("exit", lambda *how: over.set_result(how))
            worker.on("error", lambda error: None)
            how = await over
            writer.write(json.dumps([how, await served(), list(cluster.workers)]).encode() + b"\\n")
        writer.close()

    @cluster.once("listening")
    async def _(worker, found):
        global info
        info = found
        cluster.setup_primary(exec="hostile.py", exec_argv=["-SE"])
        server = await asyncio.start_unix_server(ordered, "control", limit=1 << 20)
        cluster.once("exit", lambda worker, *how: server.close() if worker.id == 1 else None)
        say("up")

    cluster.fork()
    cluster.run()
else:
    async def main():
        await cluster.create_server(Echo, "127.0.0.1", 0)
        await never()
    cluster.run(main())
"""

HOSTILE = """
import os, socket, sys
descriptors, data = os.environ["BYTES"].split(":")
channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
channel.settimeout(20)
data = bytes.fromhex(data)
try:
    if data and int(descriptors):
        sent = socket.send_fds(channel, [data], [1] * int(descriptors))
        data = data[sent:]
    channel.sendall(data)
except OSError:
    pass  # the primary has had enough of it
"""

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "act": st.sampled_from([str(act) for act in Act]),
    "address": st.sampled_from([None, "127.0.0.1", "::", "", "nowhere/at-all", "x" * 300, "\0"]),
    "port": st.sampled_from([0, -1, 65536, None, 0.5]),
    "addressType": st.sampled_from([4, 6, -1, "udp4", "udp6", None]),
    "type": st.sampled_from(["net.Native", "net.Socket", "net.Server", "dgram.Native", "dgram.Socket"]),
} | dict.fromkeys(
    ("seq", "ack", "key", "index", "fd", "flags", "backlog", "data", "errno", "accepted", "stage", "report", "open"),
    VALUES,
)
COMMANDS = ["NODE_CLUSTER", "NODE_HANDLE", "NODE_HANDLE_ACK", "NODE_HANDLE_NACK", "NODE_", "x"]


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """One that looks like the protocol's, with any members: right, wrong or left out."""
    names = draw(st.lists(st.sampled_from(sorted(MEMBERS)), unique=True, max_size=8))
    message = {"cmd": draw(st.sampled_from(COMMANDS))}
    message |= {name: draw(st.one_of(MEMBERS[name], VALUES) if name != "port" else MEMBERS[name]) for name in names}
    return {**message, "msg": draw(messages())} if message["cmd"] == "NODE_HANDLE" and draw(st.booleans()) else message


LINES = messages().map(lambda message: json.dumps(message).encode() + b"\n")
PIECES = LINES | st.binary(max_size=40) | st.sampled_from([b"\n", b"[" * 5_000, b'{"a":', b"\xff\n", b"null\n"])
BYTES = st.lists(PIECES, max_size=6).map(b"".join)


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    directory: Path = tmp_path_factory.mktemp("fuzzed")
    write(directory, PRIMARY)
    (directory / "hostile.py").write_text(HOSTILE)
    with subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=directory,
        env=environment(directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'["up"]\n'
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(DEADLINE)
            control.connect(os.path.relpath(directory / "control"))
            yield control
            control.sendall(b"end\n")
            assert process.wait(DEADLINE) == 0
    wait_for(lambda: not processes_marked(directory), DEADLINE, "the end of all its processes")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=BYTES, descriptors=st.sampled_from([0, 0, 1, 2]))
def test_any_bytes_of_a_worker_leave_the_primary_of_a_plain_program_serving(
    primary: socket.socket, data: bytes, descriptors: int
) -> None:
    primary.sendall(f"{descriptors}:{data.hex()}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        piece = primary.recv(65536)
        assert piece, "the primary has gone"
        answer += piece
    how, served, workers = json.loads(answer)
    assert how in ([0, None], [None, "SIGTERM"], [None, "SIGKILL"], [None, "SIGPIPE"])
    assert served
    assert workers == [1]

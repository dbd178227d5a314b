"""The control socket of a real service: held against its own description, and against whatever else may arrive."""

import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.transport import Response as Answer

from tests.procfs import wait_for
from tests.real.clients import UnixConnection
from tests.real.harness import DEADLINE, Service
from tests.real.looking import PIDS, app, descriptors, pids_of
from tests.real.playground import own_launcher

FUZZ = int(os.environ.get("CLUSTERD_FUZZ_REQUESTS", "10000"))
"""Random requests to each socket."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with own_launcher(tmp_path_factory.mktemp("service")) as launcher:
        settings = {
            "control": {"observer_socket": str(launcher.run_dir / "look.sock")},
            "pools": {"web": {"reload": {"canary": "100ms"}}},  # requests without "wait" have their verdict soon
        }
        one = launcher.start(app(PIDS), settings, workers=2)
        one.wait_log("worker_ready", count=2)
        yield one


def ask(path: Path, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    """A request over the socket, and the answer as schemathesis looks at it."""
    connection = UnixConnection(path, DEADLINE)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        sent = requests.Request(method, f"http://localhost{target}", headers, data=body).prepare()
        found = {name.lower(): [value] for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read(), sent, elapsed=0.0, verify=False)
    finally:
        connection.close()


def operations(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(method.upper(), path) for path, found in document["paths"].items() for method in found]


def tame(document: dict[str, Any]) -> dict[str, Any]:
    """The document, for a machine of two cores: no service is ended by it, and no pool is scaled to thousands."""
    for path in ("/v1/shutdown", "/v1/upgrade", "/v1/pools/{pool}/stop"):
        del document["paths"][path]
    for name in ("WaitBody", "RestartBody", "ReloadBody"):
        found = document["components"]["schemas"][name]["properties"]
        found["wait"] = {"type": "boolean", "const": False}  # its outcomes are shown in test_commands.py
    found = document["components"]["schemas"]["ScaleBody"]["properties"]
    for name in ("to", "by"):
        for part in (found[name], *found[name].get("anyOf", ())):
            if "maximum" in part:
                part["maximum"] = min(part["maximum"], 3)
            if part.get("minimum", 0) < 0:
                part["minimum"] = -3
    return document


@pytest.mark.timeout(300)
@pytest.mark.parametrize("socket_name", ["control.sock", "look.sock"])
def test_what_the_description_promises_is_what_the_server_does(service: Service, socket_name: str) -> None:
    path = service.run_dir / socket_name
    described = ask(path, "GET", "/v1/openapi.json")
    assert described.status_code == 200
    document = tame(described.json())
    schema = schemathesis.openapi.from_dict(document)
    checked = []

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=10, deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def hold(case: Any) -> None:
            sent = case.as_transport_kwargs(base_url="http://localhost")
            request = requests.Request(**{key: sent[key] for key in ("method", "url", "headers", "params")}).prepare()
            body = None
            headers = {key: value for key, value in (sent.get("headers") or {}).items() if key.lower() != "user-agent"}
            if "json" in sent:
                body = json.dumps(sent["json"]).encode()
                headers["content-type"] = "application/json"
            target = str(request.url).removeprefix("http://localhost")
            if "follow" in target:
                target = target.replace("follow=true", "follow=false")  # it would not end
            case.validate_response(ask(path, request.method or "", target, body, **headers))

        hold()
        checked.append((operation.method.upper(), operation.path))
    assert sorted(checked) == sorted(operations(document))
    assert service.alive()
    service.control("/v1/status")


def random_request(chance: random.Random) -> bytes:
    """Nearly right, wrong, or noise."""
    methods = ["GET", "HEAD", "POST", "POST", "POST", "PUT", "DELETE", "OPTIONS", "BREW", "get", ""]
    paths = [
        "/v1/status", "/v1/workers/1", "/v1/workers/-1", "/v1/workers/" + "9" * 300, "/v1/events", "/v1/logs",
        "/v1/crashes?last=3", "/v1/openapi.json", "/livez?verbose", "/v1/logs?lines=1e9", "/v1/logs?follow=%00",
        "/v1/pools/web/scale", "/v1/pools/%2e%2e/scale", "/v1/pools/web/scale",
        "/v1/pools/web/scale", "/v1/pools/web/slots/9/hold", "/v1/workers/1/stacks", "//", "*", "/v1/" + "a" * 5000,
        "http://x/v1/status", "/v1/status?" + "&".join(f"a{number}=1" for number in range(40)),
    ]  # fmt: skip
    bodies = [b"", b"{}", b'{"by":0}', b'{"to":2}', b"[", b"\xff\xfe", b'{"by":"x"}', b"{" * 3000, b"x" * 70_000]
    body = chance.choice(bodies)
    length = chance.choice([len(body)] * 6 + [0, 5, 10**20, -1])
    head = (
        f"{chance.choice(methods)} {chance.choice(paths)} HTTP/{chance.choice(['1.1'] * 5 + ['1.0', '2.0', '9'])}\r\n"
    )
    lines = [
        f"host: x\r\ncontent-length: {length}\r\nconnection: {chance.choice(['close', 'close', 'keep-alive'])}\r\n"
    ]
    if chance.random() < 0.1:
        lines.append("transfer-encoding: chunked\r\n")
    data = (head + "".join(lines) + "\r\n").encode() + body
    if chance.random() < 0.2:
        spoilt = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        data = bytes(spoilt)
    return data[: chance.randrange(len(data))] if chance.random() < 0.1 else data


def answer_to(path: Path, data: bytes) -> bytes:
    """What the server says to these bytes, however little."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(os.fspath(path))
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65536):
                answer += piece
        except ConnectionError:
            pass
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (data, answer)
    return answer


def wanted_by(service: Service) -> int:
    return int(service.status()["pools"][0]["wanted"])


def settled(service: Service) -> None:
    """What the tests before have asked for is done: no reload is under way, nobody starts, and nobody leaves."""

    def still() -> bool:
        status = service.status()
        (pool,) = status["pools"]
        holders = [slot["worker"] for slot in pool["slots"] if not slot["held"]]
        ready = all(worker and worker["state"] == "ready" for worker in holders)
        return ready and not pool["leaving"] and status["reload"] is None

    wait_for(still, DEADLINE, "a service at rest")


@pytest.mark.timeout(300)
def test_random_requests_of_an_observer_neither_end_it_nor_leak_nor_change_anything(service: Service) -> None:
    chance = random.Random(2026)
    settled(service)
    before, fds = pids_of(service), len(descriptors(service.pid))
    wanted, mark = wanted_by(service), service.mark()
    for _ in range(FUZZ):
        answer_to(service.run_dir / "look.sock", random_request(chance))
    assert service.alive()
    assert wanted_by(service) == wanted
    assert pids_of(service) == before
    assert {line["action"] for line in service.logged("audit", after=mark)} <= {"refused"}
    assert not service.logged("internal_error")
    wait_for(lambda: len(descriptors(service.pid)) <= fds, DEADLINE, "the end of every connection")


@pytest.mark.timeout(300)
def test_random_requests_of_an_admin_change_what_is_well_formed_and_answered_so_and_nothing_else(
    service: Service,
) -> None:
    """One line in the audit for each change that was answered with success, none for anything else."""
    chance = random.Random(2027)
    settled(service)
    fds, mark, changed = len(descriptors(service.pid)), service.mark(), 0
    wanted = wanted_by(service)
    for _ in range(FUZZ):
        data = random_request(chance)
        answer = answer_to(service.run_dir / "control.sock", data)
        if data.startswith(b"POST ") and answer.startswith(b"HTTP/1.1 200 "):
            changed += 1
            found, _ = json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())
            wanted = found.get("wanted", wanted)
        assert not answer.startswith((b"HTTP/1.1 500 ", b"HTTP/1.1 503 ", b"HTTP/1.1 504 ")), (data, answer)
    assert service.alive()
    assert changed > FUZZ / 500, "too few of them were right to say anything"
    assert wanted_by(service) == wanted
    service.wait_log("audit", after=mark, count=changed)
    assert len(service.logged("audit", after=mark)) == changed
    assert not service.logged("internal_error")
    ask(service.run_dir / "control.sock", "POST", "/v1/pools/web/scale", b'{"to": 2}')
    wait_for(lambda: len(service.workers()) == 2, DEADLINE, "two workers")
    wait_for(lambda: len(descriptors(service.pid)) <= fds, DEADLINE, "the end of every connection")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root may")
def test_random_requests_of_another_user_are_all_refused(service: Service) -> None:
    """Also where the file's mode lets it in: by what the kernel says of it."""
    chance, path = random.Random(2028), service.run_dir / "control.sock"
    requests = [random_request(chance) for _ in range(FUZZ // 10)]
    mark = service.mark()
    service.run_dir.chmod(0o711)
    path.chmod(0o666)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            for data in requests:
                answer = answer_to(path, data)
                os.write(writing, answer[9:12].rjust(3) if answer else b"---")
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as codes:
        said = codes.read()
    os.waitpid(child, 0)
    path.chmod(0o600)
    service.run_dir.chmod(0o700)
    found = {said[at : at + 3] for at in range(0, len(said), 3)}
    assert len(said) == 3 * len(requests)
    assert b"403" in found
    assert found <= {b"403", b"---", b"400", b"413", b"431", b"501", b"505", b"408"}, found
    assert not service.logged("audit", after=mark)


def test_the_observer_socket_refuses_every_change(service: Service) -> None:
    path = service.run_dir / "look.sock"
    document = ask(path, "GET", "/v1/openapi.json").json()
    changes = [path for method, path in operations(document) if method == "POST"]
    assert "/v1/shutdown" in changes
    for target in changes:
        refused = ask(path, "POST", target.replace("{pool}", "web").replace("{worker}", "1"))
        assert refused.status_code == 403
        assert "over this socket you are observer" in refused.json()["error"]
    assert service.alive()


def test_every_change_leaves_a_line_with_uid_and_pid(service: Service) -> None:
    mark = service.mark()
    answer = ask(service.run_dir / "control.sock", "POST", "/v1/pools/web/scale", b'{"by": 0}')
    assert answer.status_code == 200
    line = service.wait_log("audit", after=mark, action="scale")
    assert (line["uid"], line["pid"], line["role"], line["pool"]) == (os.getuid(), os.getpid(), "admin", "web")

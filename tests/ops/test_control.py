"""The control socket: who may do what, what comes of it, and what is written about it."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterd.core import events as e
from clusterd.core.facts import ReloadEnded, ReloadView, Stopped, Verdict
from clusterd.core.facts import Scaled as ScaledFact
from clusterd.errors import HostError
from clusterd.ops import roles as room
from clusterd.ops.exchange import Credentials, Request, Response, Stream
from clusterd.ops.journal import Journal
from clusterd.ops.roles import OBSERVERS, Accounts, Role, Roles, accounts
from tests.ops.serving import DEADLINE, Running, read_all, serving_unix
from tests.ops.staged import Staged, Steered, control, healthy_view, pool_view, slot_view, steered, worker_view

OWN = Credentials(1, os.getuid(), os.getgid())
STRANGER = Credentials(2, 40_000, 40_000)


@pytest.fixture(autouse=True)
def nobody_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run as root too; then own user and root are one, and only that one."""
    monkeypatch.setattr(room, "ROOT", os.getuid())


def request(method: str, path: str, body: Any = None, peer: Credentials | None = OWN, **query: str) -> Request:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Request(method, path, query, {"content-type": "application/json"} if data else {}, data, peer)


def answered(steer: Steered, asked: Request, roles: Roles | None = None) -> Response:
    async def ask() -> Response:
        answer = steered(steer, roles)(asked)
        if isinstance(answer, Response):
            return answer
        assert not isinstance(answer, Stream)
        return await asyncio.wait_for(answer, DEADLINE)

    return asyncio.run(ask())


# -- roles -----------------------------------------------------------------------------------------------------------


def test_root_and_the_own_user_are_admins_and_a_stranger_is_nobody() -> None:
    assert Roles().of(OWN) is Role.ADMIN
    assert Roles().of(STRANGER) is None
    assert Roles().of(None) is None


@pytest.mark.parametrize(
    "peer",
    [
        Credentials(3, 500, 1),
        Credentials(3, 1, 600),
        Credentials(3, 1, 1, frozenset({5, 600})),
    ],
)
def test_users_and_groups_give_roles_the_supplementary_ones_too(peer: Credentials) -> None:
    some = Accounts(frozenset({500}), frozenset({600}))
    assert Roles(operators=some).of(peer) is Role.OPERATOR
    assert Roles(admins=some).of(peer) is Role.ADMIN
    assert Roles(operators=some, admins=some).of(peer) is Role.ADMIN
    assert Roles(operators=some, at_most=Role.OBSERVER).of(peer) is Role.OBSERVER


def test_names_and_numbers_are_accounts_and_others_are_refused() -> None:
    assert accounts("control.admins", ["root", "7"], ["root", "8"]) == Accounts(frozenset({0, 7}), frozenset({0, 8}))
    with pytest.raises(HostError, match=r"control\.admins\.users: there is no user 'no-such-user'"):
        accounts("control.admins", ["no-such-user"], [])
    with pytest.raises(HostError, match=r"control\.admins\.groups: there is no group 'no-such-group'"):
        accounts("control.admins", [], ["no-such-group"])


CHANGES = [
    ("/v1/pools/web/scale", {"by": 1}, Role.OPERATOR),
    ("/v1/workers/1/stacks", None, Role.OPERATOR),
    ("/v1/reload", {"wait": False}, Role.OPERATOR),
    ("/v1/restart", {"wait": False}, Role.OPERATOR),
    ("/v1/pools/web/start", {"wait": False}, Role.OPERATOR),
    ("/v1/pools/web/stop", {"wait": False}, Role.OPERATOR),
    ("/v1/pools/web/slots/0/hold", {"wait": False}, Role.OPERATOR),
    ("/v1/pools/web/slots/1/release", {"wait": False}, Role.OPERATOR),
    ("/v1/shutdown", {}, Role.ADMIN),
]


@pytest.mark.parametrize(("path", "body", "needed"), CHANGES)
@pytest.mark.parametrize("role", [None, *Role])
def test_each_change_takes_its_role_and_is_audited(path: str, body: Any, needed: Role, role: Role | None) -> None:
    peer = Credentials(77, 500, 500)
    some = Accounts(users=frozenset({500}))
    roles = {
        None: Roles(),
        Role.OBSERVER: OBSERVERS,
        Role.OPERATOR: Roles(operators=some),
        Role.ADMIN: Roles(admins=some),
    }[role]
    steer = Steered(Staged())
    response = answered(steer, request("POST", path, body, peer), roles)
    if role is not None and role >= needed:
        assert response.status == 200, response
        (line,) = steer.audited
        assert line["action"] in path
        assert (line["uid"], line["pid"], line["role"]) == (500, 77, role.title)
    else:
        assert response.status == 403
        assert not steer.events
        assert [line["action"] for line in steer.audited] == ([] if role is None else ["refused"])


@pytest.mark.parametrize("role", [Role.OBSERVER, Role.ADMIN])
def test_reading_changes_nothing(role: Role) -> None:
    steer = Steered(Staged())
    answers = steered(steer, OBSERVERS if role is Role.OBSERVER else Roles())
    for path in ("/v1/status", "/v1/workers/1", "/v1/openapi.json", "/livez", "/readyz", "/startupz"):
        for method in ("GET", "HEAD"):
            answer = answers(request(method, path))
            assert isinstance(answer, Response)
            assert answer.status == 200, path
    for path in ("/v1/events", "/v1/logs", "/v1/crashes"):
        assert isinstance(answers(request("GET", path)), Stream)
    assert steer.events == steer.audited == []


# -- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wanted"), [({"by": 1}, 3), ({"by": -1}, 1), ({"to": 7}, 7), ({"to": 3, "by": 2}, 5), ({}, 2), (None, 2)]
)
def test_scale_answers_what_became_of_it(body: Any, wanted: int) -> None:
    steer = Steered(Staged())
    response = answered(steer, request("POST", "/v1/pools/web/scale", body))
    assert json.loads(response.body) == {"pool": "web", "wanted": wanted, "was": 2}
    assert steer.events == [e.Scale("web", wanted - 2)]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/pools/web/scale", {"by": -2}, 409, "0 workers are not possible"),
        ("/v1/pools/web/scale", {"to": 4096, "by": 1}, 409, "1 to 4096"),
        ("/v1/pools/web/scale", {"to": 0}, 400, "Expected `int` >= 1"),
        ("/v1/pools/web/scale", {"to": "7"}, 400, "Expected `int"),
        ("/v1/pools/web/scale", {"two": 7}, 400, "unknown field `two`"),
        ("/v1/pools/web/scale", [], 400, "Expected `object`"),
        ("/v1/pools/web/scale", b"{", 400, "truncated"),
        ("/v1/pools/web/scale", b"[" * 60_000, 400, "the body of"),
        ("/v1/pools/web/scale", b'"\xff"', 400, "the body of"),
        ("/v1/pools/cpu/scale", {"by": 1}, 404, "there is no pool 'cpu'; there are web"),
        ("/v1/pools/%00%1b%ff/scale", {"by": 1}, 404, "there is no pool"),
        ("/v1/workers/9/stacks", None, 404, "there is no worker '9' now"),
        ("/v1/workers/x/stacks", None, 404, "there is no worker 'x' now"),
        ("/v1/workers/1/stacks", {"a": 1}, 400, "takes no body"),
        ("/v1/reload", {"pool": "cpu"}, 404, "there is no pool cpu"),
        ("/v1/reload", {"timeout": 0}, 400, "Expected `float` > 0"),
        ("/v1/restart", {"pool": "cpu"}, 404, "there is no pool 'cpu'"),
        ("/v1/restart", {"worker": 9}, 404, "there is no worker '9' now"),
        ("/v1/pools/cpu/start", None, 404, "there is no pool 'cpu'"),
        ("/v1/pools/cpu/stop", None, 404, "there is no pool 'cpu'"),
        ("/v1/pools/cpu/slots/0/hold", None, 404, "there is no pool 'cpu'"),
        ("/v1/pools/web/slots/2/hold", None, 404, "pool web has no slot '2'; its slots are 0 to 1"),
        ("/v1/pools/web/slots/-1/hold", None, 404, "pool web has no slot '-1'"),
        ("/v1/pools/web/slots/%d9%a1/release", None, 404, "pool web has no slot"),
        ("/v1/pools/web/slots/00000000000000000001/release", None, 404, "pool web has no slot"),
        ("/v1/nothing", None, 404, "nothing is at /v1/nothing"),
        ("/v1/status", None, 405, "/v1/status takes GET"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(path: str, body: Any, status: int, says: str) -> None:
    steer = Steered(Staged())
    response = answered(steer, request("POST", path, body))
    assert response.status == status
    assert says in json.loads(response.body)["error"]
    assert steer.events == []


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/status", {"x": "1"}),
        ("/v1/logs", {"lines": "many"}),
        ("/v1/logs", {"lines": "5001"}),
        ("/v1/logs", {"since": "-1"}),
        ("/v1/events", {"follow": "perhaps"}),
        ("/v1/events", {"last": "99999999999999999999999999"}),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(path: str, query: dict[str, str]) -> None:
    response = answered(Steered(Staged()), request("GET", path, **query))
    assert response.status == 400
    assert path in json.loads(response.body)["error"]


def test_a_body_of_another_kind_is_refused() -> None:
    asked = Request("POST", "/v1/shutdown", {}, {"content-type": "application/x-www-form-urlencoded"}, b"now=1", OWN)
    steer = Steered(Staged())
    assert answered(steer, asked).status == 415
    assert steer.events == []


def test_a_shutdown_is_asked_for_as_said() -> None:
    steer = Steered(Staged())
    assert json.loads(answered(steer, request("POST", "/v1/shutdown", {"now": True})).body) == {"state": "draining"}
    assert steer.events == [e.Stop(now=True)]


def told(ended: ReloadEnded) -> Response:
    """The answer of a reload whose verdict comes after it was begun."""
    steer, journal = Steered(Staged()), Journal()
    answers = steered(steer, journal=journal)

    async def ask() -> Response:
        answer = answers(request("POST", "/v1/reload", {}))
        assert not isinstance(answer, Response | Stream)
        asked = asyncio.ensure_future(answer)
        for _ in range(5):  # turns of the loop: it has been begun then
            await asyncio.sleep(0)
        assert steer.reloads == [""]
        journal.fact(ReloadEnded(1, Verdict.SUPERSEDED, "another's", "", 1.0))
        journal.fact(ended)
        return await asyncio.wait_for(asked, DEADLINE)

    return asyncio.run(ask())


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_reload_answers_with_its_verdict_and_no_others(verdict: Verdict) -> None:
    response = told(ReloadEnded(2, verdict, "because", "a traceback", 1.25))
    assert response.status == 200
    assert json.loads(response.body) == {
        "generation": 2, "verdict": verdict.value, "reason": "because", "report": "a traceback", "took": 1.25,
    }  # fmt: skip


def test_a_reload_that_is_not_waited_for_has_begun() -> None:
    response = answered(Steered(Staged()), request("POST", "/v1/reload", {"wait": False, "pool": "web"}))
    assert json.loads(response.body)["verdict"] == "begun"


def test_the_verdict_of_another_ones_reload_is_waited_for_and_none_is_begun() -> None:
    """One that is superseded is followed by another, whose verdict it is."""
    under_way = ReloadView(2, ("web",), 0.0, "canary", None)
    steer, journal = Steered(Staged(replace(healthy_view(), reload=under_way))), Journal()
    answers = steered(steer, journal=journal)

    async def ask(**body: Any) -> Response:
        answer = answers(request("POST", "/v1/reload", {"begin": False, **body}))
        assert not isinstance(answer, Response | Stream)
        asked = asyncio.ensure_future(answer)
        for _ in range(5):  # turns of the loop: it waits then
            await asyncio.sleep(0)
        journal.fact(ReloadEnded(2, Verdict.SUPERSEDED, "another", "", 1.0))
        journal.fact(ReloadEnded(3, Verdict.ROLLED_BACK, "it fails", "a traceback", 1.0))
        return await asyncio.wait_for(asked, DEADLINE)

    found = json.loads(asyncio.run(ask()).body)
    assert (found["generation"], found["verdict"], found["report"]) == (3, "rolled_back", "a traceback")
    assert json.loads(asyncio.run(ask(wait=False)).body)["verdict"] == "begun"
    assert steer.reloads == steer.audited == []


def test_without_a_reload_under_way_the_verdict_is_the_last_ones() -> None:
    steer, journal = Steered(Staged()), Journal()
    answers = steered(steer, journal=journal)

    async def ask(**body: Any) -> Response:
        answer = answers(request("POST", "/v1/reload", {"begin": False, **body}))
        assert not isinstance(answer, Response | Stream)
        return await answer

    none = asyncio.run(ask())
    assert (none.status, "no reload since" in json.loads(none.body)["error"]) == (409, True)
    journal.fact(ReloadEnded(None, Verdict.REFUSED, "bad file", "", 0.0))
    assert json.loads(asyncio.run(ask()).body)["verdict"] == "refused"
    assert asyncio.run(ask(pool="web")).status == 409
    assert steer.reloads == []


def test_a_slot_is_held_until_it_is_released() -> None:
    steer = Steered(Staged())
    response = answered(steer, request("POST", "/v1/pools/web/slots/1/hold"))
    assert json.loads(response.body) == {"pool": "web", "slot": 1, "held": True, "worker": None}
    response = answered(steer, request("POST", "/v1/pools/web/slots/1/release"))
    assert json.loads(response.body) == {"pool": "web", "slot": 1, "held": False, "worker": 2}
    assert steer.events == [e.Hold("web", 1), e.Release("web", 1)]


def test_a_service_that_ends_holds_no_slot() -> None:
    response = answered(Steered(Staged(), slow=True), request("POST", "/v1/pools/web/slots/1/hold"))
    assert response.status == 409
    assert "web/1 is not held now" in json.loads(response.body)["error"]


PATIENT = [
    "/v1/reload",
    "/v1/restart",
    "/v1/pools/web/stop",
    "/v1/pools/web/start",
    "/v1/pools/cpu/slots/0/hold",
    "/v1/pools/cpu/slots/1/release",
]


@pytest.mark.parametrize("path", PATIENT)
def test_an_outcome_that_does_not_come_in_time_is_504(path: str) -> None:
    stuck = pool_view([slot_view(0, 5, held=True), slot_view(1, None)], [worker_view(5, 0)], name="cpu")
    steer = Steered(Staged(replace(healthy_view(), pools=(*healthy_view().pools, stuck))), slow=True)
    response = answered(steer, request("POST", path, {"timeout": 0.01}))
    assert response.status == 504
    assert steer.audited


def test_what_a_reload_would_change_is_told_and_nothing_is_done() -> None:
    steer = Steered(Staged())
    answer = answered(steer, request("GET", "/v1/changes"))
    assert [change["key"] for change in json.loads(answer.body)] == ["pools.web.workers", "log.level"]
    assert steer.reloads == steer.events == steer.audited == []


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def running(run_dir: Path, journal: Journal) -> Iterator[Running]:
    with serving_unix(str(run_dir / "control.sock"), control(Staged(), journal=journal)) as one:
        yield one


def get(path: str, version: str = "1.0") -> bytes:
    return f"GET {path} HTTP/{version}\r\nhost: x\r\n\r\n".encode()


def body_of(answer: bytes) -> list[Any]:
    return [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines() if line.strip()]


def test_what_there_is_already_is_given_and_then_it_ends(running: Running, journal: Journal) -> None:
    running.loop.call_soon_threadsafe(journal.line, "web", 0, 1, "stdout", "hello")
    running.loop.call_soon_threadsafe(journal.line, "web", 1, 2, "stderr", "world")
    running.loop.call_soon_threadsafe(journal.fact, ScaledFact("web", 3, 2))
    assert [line["text"] for line in body_of(running.ask(get("/v1/logs")))] == ["hello", "world"]
    assert [line["text"] for line in body_of(running.ask(get("/v1/logs?worker=2")))] == ["world"]
    assert [line["text"] for line in body_of(running.ask(get("/v1/logs?lines=1&pool=web")))] == ["world"]
    assert body_of(running.ask(get("/v1/logs?pool=cpu"))) == []
    (event,) = body_of(running.ask(get("/v1/events")))
    assert (event["event"], event["wanted"], event["was"]) == ("scaled", 3, 2)
    assert body_of(running.ask(get("/v1/events?last=0"))) == []


def test_what_comes_is_told_as_it_comes_until_the_service_ends(running: Running, journal: Journal) -> None:
    with running.connect() as client:
        client.sendall(get("/v1/events?follow=true"))
        assert b"200 OK" in client.recv(65536)
        running.loop.call_soon_threadsafe(journal.fact, ScaledFact("web", 3, 2))
        assert b'"scaled"' in client.recv(65536)
        running.loop.call_soon_threadsafe(journal.fact, Stopped(0, "asked to stop", ()))
        assert b'"stopped"' in read_all(client)
    assert journal.readers == 0


def test_a_followed_stream_is_finished_when_the_server_closes(running: Running, journal: Journal) -> None:
    with running.connect() as client:
        client.sendall(get("/v1/logs?follow=1", "1.1"))
        assert b"chunked" in client.recv(65536)

        def last_words() -> None:
            journal.line("web", 0, 1, "stdout", "the last line")
            journal.fact(Stopped(0, "asked to stop", ()))
            running.server.close()

        running.loop.call_soon_threadsafe(last_words)
        rest = read_all(client)
        assert b"the last line" in rest
        assert rest.endswith(b"0\r\n\r\n")


def test_a_client_that_does_not_read_costs_little_and_is_told_what_it_missed(
    running: Running, journal: Journal
) -> None:
    lines = 20_000

    def flood() -> None:
        for number in range(lines):
            journal.line("web", 0, 1, "stdout", f"{number} " + "x" * 100)

    with running.connect() as slow, running.connect() as other:
        slow.sendall(get("/v1/logs?follow=1&lines=0"))
        assert b"200 OK" in slow.recv(65536)
        done = asyncio.run_coroutine_threadsafe(asyncio.to_thread(lambda: None), running.loop)
        done.result(DEADLINE)
        running.loop.call_soon_threadsafe(flood)
        other.sendall(get("/v1/status"))
        assert b"200 OK" in read_all(other)  # others are answered meanwhile
        got, missed = 0, 0
        data = b""
        while got + missed < lines:
            data += slow.recv(65536)
            *whole, data = data.split(b"\n")
            for line in whole:
                told = json.loads(line)
                if told.get("event") == "left_out":
                    missed += told["count"]
                else:
                    got += 1
        assert missed > 0


def test_those_who_follow_are_bounded_and_forgotten_when_they_go(running: Running, journal: Journal) -> None:
    clients = []
    for _ in range(32):
        client = running.connect()
        client.sendall(get("/v1/events?follow=1"))
        assert b"200 OK" in client.recv(65536)
        clients.append(client)
    assert b"503" in running.ask(get("/v1/logs?follow=1"))
    assert b"200 OK" in running.ask(get("/v1/status"))
    for client in clients:
        client.close()
    # A client that has gone is found out by what is written to it.
    for _ in range(3):
        running.loop.call_soon_threadsafe(journal.fact, ScaledFact("web", 3, 2))
        assert b"200 OK" in running.ask(get("/v1/status"))
    assert journal.readers == 0


def test_a_head_of_a_stream_follows_nothing(running: Running, journal: Journal) -> None:
    assert b"200 OK" in running.ask(b"HEAD /v1/events?follow=1 HTTP/1.0\r\n\r\n")
    assert journal.readers == 0


def test_a_request_behind_one_that_takes_its_time_is_answered_in_turn(running: Running) -> None:
    post = b"POST /v1/workers/1/stacks HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    answer = running.ask(post + get("/v1/status", "1.1"))
    assert answer.index(b"the stacks of 1") < answer.index(b'"api":1')

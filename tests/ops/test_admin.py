import asyncio
from dataclasses import replace

import pytest

from clusterd.core.facts import ExitReason
from clusterd.ops import admin
from clusterd.ops.admin import monitoring_routes
from clusterd.ops.exchange import Request, Response, Routes
from clusterd.ops.metrics import Metrics
from tests.ops.staged import Staged, healthy_view, pool_view, slot_view, worker_view


def routes_of(source: Staged) -> Routes:
    return monitoring_routes(source, Metrics(source, "1.2.3"))


def ask(routes: Routes, path: str, query: dict[str, str] | None = None, **headers: str) -> Response:
    answer = routes[path](Request("GET", path, query or {}, headers, b"", None))
    if isinstance(answer, Response):
        return answer

    async def later() -> Response:
        return await answer

    return asyncio.run(later())


def test_the_monitoring_address_has_these_pages_and_no_other() -> None:
    assert sorted(routes_of(Staged())) == ["/livez", "/metrics", "/readyz", "/startupz"]


def test_a_ready_service_passes_every_check() -> None:
    routes = routes_of(Staged())
    for path in ("/livez", "/readyz", "/startupz"):
        assert ask(routes, path).status == 200
    assert ask(routes, "/readyz").body.decode() == "ok   service: ready\nok   pool web: 2 of 2 ready, 1 needed\n"


def test_readyz_says_which_pool_lacks_what() -> None:
    pools = (pool_view([slot_view(0, 1)], [worker_view(1, 0)]), pool_view([slot_view(0, None)], [], name="cpu"))
    response = ask(routes_of(Staged(replace(healthy_view(1), ready=False, pools=pools))), "/readyz")
    assert response.status == 503
    assert response.content_type.startswith("text/plain")
    assert response.body.decode().splitlines() == [
        "FAIL service: not ready",
        "ok   pool web: 1 of 1 ready, 1 needed",
        "FAIL pool cpu: 0 of 1 ready, 1 needed",
    ]


def test_while_it_stops_the_service_is_live_but_not_ready() -> None:
    routes = routes_of(Staged(replace(healthy_view(2), phase="draining", ready=False)))
    assert ask(routes, "/readyz").status == 503
    assert "service: draining" in ask(routes, "/readyz").body.decode()
    assert ask(routes, "/livez").status == 200
    assert ask(routes, "/startupz").status == 200


def test_startupz_passes_from_the_first_ready_on_and_for_good() -> None:
    assert ask(routes_of(Staged(replace(healthy_view(1), ready=False, was_ready=False))), "/startupz").status == 503
    assert ask(routes_of(Staged(replace(healthy_view(1), ready=False, was_ready=True))), "/startupz").status == 200


def test_livez_fails_by_the_loop_alone() -> None:
    assert ask(routes_of(Staged(replace(healthy_view(1), ready=False, pools=()))), "/livez").status == 200
    assert ask(routes_of(Staged(age=admin.LOOP_AGE + 0.1)), "/livez").status == 503


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
def test_verbose_has_a_line_a_slot(path: str) -> None:
    slots = [
        slot_view(0, 1),
        slot_view(1, None, next_start=101.6, last_reason=ExitReason.CRASH),
        slot_view(2, None, given_up=True),
        slot_view(3, None),
    ]
    source = Staged(replace(healthy_view(1), pools=(pool_view(slots, [worker_view(1, 0)]),)))
    lines = ask(routes_of(source), path, {"verbose": ""}).body.decode().splitlines()
    assert lines[-4:] == [
        "     web/0: ready, worker 1, generation 1",
        "     web/1: vacant, next start in 1.6 s, 1 ended, last: crash",
        "     web/2: given up",
        "     web/3: vacant",
    ]


def test_metrics_come_in_the_format_that_is_accepted() -> None:
    routes = routes_of(Staged())
    assert ask(routes, "/metrics").content_type.startswith("text/plain")
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    assert ask(routes, "/metrics", **accept).content_type.startswith("application/openmetrics-text")

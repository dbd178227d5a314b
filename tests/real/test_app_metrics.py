"""The app's own prometheus_client metrics on the service's page: once, right, whatever becomes of workers."""

import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from itertools import count
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from clusterd.ops.asking import PATIENCE
from tests.procfs import wait_for
from tests.real.clients import Metrics, ask, dial, fetch
from tests.real.harness import DEADLINE, IN_TURN, Launcher, Service, kill
from tests.real.playground import own_launcher

APP = r"""
import asyncio, os, signal, time
from urllib.parse import parse_qsl
from prometheus_client import REGISTRY, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

IMPORTS = Counter("app_imports", "Counted at import, in the zygote.")
IMPORTS.inc(3)
ORDERS = Counter("app_orders", "Orders.", ["kind"])
SECONDS = Histogram("app_seconds", "Seconds.", buckets=(0.1, 1, 10))
BYTES = Summary("app_bytes", "Bytes.", ["kind"])
BUSY = Gauge("app_busy", "Being done.", multiprocess_mode="livesum")
LEAST = Gauge("app_least", "Least.", multiprocess_mode="min")
MOST = Gauge("app_most", "Most.", multiprocess_mode="max")
LAST = Gauge("app_last", "Last.", multiprocess_mode="mostrecent")
EACH = Gauge("app_each", "By worker.")
PRESET = Gauge("app_preset", "Set at import.", multiprocess_mode="max")
PRESET.set(42)
SESSIONS = Gauge("app_sessions", "Removed again.", ["session"], multiprocess_mode="sum")
VERSION = Info("app_version", "Version.")
VERSION.info({"version": "1.2.3"})
PHASE = Enum("app_phase", "Phase.", states=["cold", "warm"])
Gauge("app_pid_function", "Computed.", multiprocess_mode="max").set_function(os.getpid)
Counter("clusterd_mine", "Not allowed.").inc()
BLOCK = []

class Custom:
    def collect(self):
        while BLOCK:
            time.sleep(0.01)
        c = CounterMetricFamily("custom_done", "Custom.", labels=["a"])
        c.add_metric(["x"], 5)
        yield c
        yield GaugeMetricFamily("custom_pid", "Custom.", value=os.getpid())

REGISTRY.register(Custom())

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            phase = (await receive())["type"]
            await send({"type": phase + ".complete"})
            if phase == "lifespan.shutdown":
                return
    query = dict(parse_qsl(scope["query_string"].decode()))
    path = scope["path"]
    if path == "/order":
        ORDERS.labels(query["kind"]).inc()
        SECONDS.observe(float(query.get("seconds", "0.5")), exemplar={"trace": query["kind"]})
        BYTES.labels(query["kind"]).observe(10)
        BYTES.labels(query["kind"]).observe(2.5)
    elif path == "/die":
        ORDERS.labels("last").inc()
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/set":
        for gauge in (LEAST, MOST, LAST, EACH):
            gauge.set(float(query["to"]))
        BUSY.inc()
        PHASE.state("warm")
    elif path == "/session":
        SESSIONS.labels(query["name"]).set(1)
    elif path == "/remove":
        SESSIONS.remove(query["name"])
    elif path == "/fork":
        pid = os.fork()
        if pid == 0:
            for _ in range(100):
                ORDERS.labels("forked").inc()
            os._exit(0)
        os.waitpid(pid, 0)
        ORDERS.labels("forked").inc()
    elif path == "/block":
        BLOCK.append(True)
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def up(launcher: Launcher, workers: int = 3, **settings: object) -> Service:
    (launcher.folder / "app.py").write_text(APP)
    pool = {
        "restart": {"initial_delay": "10ms", "max_delay": "50ms", "give_up_after": 0},
        "reload": {"canary": "100ms"},
        **IN_TURN["pools"]["web"],
    }
    launcher.configuration({"pools": {"web": pool}, **settings}, workers=workers)
    service = launcher.run("--config", str(launcher.folder / "clusterd.toml"))
    service.wait_log("worker_ready", count=workers)
    return service


def each(service: Service, path: str, workers: int = 3) -> list[str]:
    """The same request to every worker, in turn; what they answered."""
    return [service.get(path.replace("NUMBER", str(number))).text for number in range(workers)]


def gauges(page: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(sorted(sample.labels.values())): sample.value for sample in page.samples if sample.name == name}


def whole(service: Service, computed: str, value: float) -> Metrics:
    """A page on which all workers' answers are: it waits for them only half a second."""

    def look() -> Metrics | None:
        page = service.metrics()
        return page if page.value(computed) == value else None

    found = wait_for(look, DEADLINE, f"{computed} of all workers")
    assert found is not None
    return found


def test_whatever_the_app_registers_comes_out_once_and_aggregated(launcher: Launcher) -> None:
    service = up(launcher)
    for kind, times in (("tea", 6), ("pot", 3)):
        for _ in range(times):
            service.get(f"/order?kind={kind}")
    service.get("/order?kind=pot&seconds=5")
    pids = each(service, "/set?to=NUMBER")
    page = whole(service, "custom_done_total", 15)
    # what was counted at import counts once, not once a worker
    assert page.value("app_imports_total") == 3
    assert page.value("app_orders_total", kind="tea") == 6
    assert page.value("app_orders_total", kind="pot") == 4
    assert {le: page.value("app_seconds_bucket", le=le) for le in ("0.1", "1.0", "10.0", "+Inf")} == {
        "0.1": 0, "1.0": 9, "10.0": 10, "+Inf": 10
    }  # fmt: skip
    assert page.value("app_seconds_count") == 10
    assert page.value("app_seconds_sum") == 9 * 0.5 + 5
    assert page.value("app_bytes_count", kind="tea") == 12
    assert page.value("app_bytes_sum", kind="tea") == 75
    # gauges by their mode
    assert gauges(page, "app_busy") == {(): 3}
    assert gauges(page, "app_least") == {(): 0}
    assert gauges(page, "app_most") == {(): 2}
    assert gauges(page, "app_last") == {(): 2}
    assert sorted(gauges(page, "app_each")) == [("0", "web"), ("1", "web"), ("2", "web")]
    assert sorted(gauges(page, "app_each").values()) == [0, 1, 2]
    assert gauges(page, "app_preset") == {(): 42}
    # what is computed
    assert gauges(page, "app_version_info") == {("1.2.3",): 1}
    assert {key: value for key, value in gauges(page, "app_phase").items() if value} == {
        (slot, "warm", "web"): 1 for slot in "012"
    }
    assert gauges(page, "app_pid_function") == {(): float(max(map(int, pids)))}
    assert page.value("custom_done_total", a="x") == 15
    assert sorted(gauges(page, "custom_pid").values()) == sorted(map(float, pids))
    # what stands once, for the primary; what is not allowed
    assert gauges(page, "process_start_time_seconds").keys() == {()}
    assert len(gauges(page, "python_info")) == 1
    assert "clusterd_mine_total" not in page.names()
    service.wait_log("app_metric_refused", metric="clusterd_mine")
    service.metrics()
    assert len(service.logged("app_metric_refused", metric="clusterd_mine")) == 1
    assert page.text.count("# TYPE app_orders_total counter") == 1


def test_exemplars_are_kept_in_openmetrics(launcher: Launcher) -> None:
    service = up(launcher, 2)
    for kind in ("one", "two", "three"):
        service.get(f"/order?kind={kind}")
    whole(service, "custom_done_total", 10)
    connection = dial(service.monitoring(), DEADLINE)
    answer = ask(connection, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    connection.close()
    families = {family.name: family for family in parse_openmetrics(answer.text)}
    (exemplar,) = [sample.exemplar for sample in families["app_seconds"].samples if sample.exemplar]
    assert exemplar.labels == {"trace": "three"}  # the youngest of all workers
    assert exemplar.value == 0.5
    assert families["app_version"].type == "info"
    assert families["app_phase"].type == "stateset"


def test_counts_outlive_their_workers_and_gauges_do_not(launcher: Launcher) -> None:
    service = up(launcher)
    each(service, "/set?to=NUMBER")
    for _ in range(4):
        service.get("/order?kind=tea")
    with pytest.raises((ConnectionError, HTTPException)):
        service.get("/die")
    service.wait_log("worker_ready", count=4)
    for worker in [worker for worker in service.workers() if worker["id"] <= 3]:
        kill(worker["pid"])
    service.wait_log("worker_ready", count=6)
    page = service.metrics()
    assert page.value("app_orders_total", kind="last") == 1
    assert page.value("app_orders_total", kind="tea") == 4
    assert page.value("app_imports_total") == 3
    assert page.value("app_busy") == 0
    assert page.value("app_preset") == 42
    assert gauges(page, "app_each") == {("0", "web"): 0, ("1", "web"): 0, ("2", "web"): 0}
    assert page.value("custom_done_total", a="x") <= 15 + 15


def test_series_that_are_removed_are_gone_and_can_come_again(launcher: Launcher) -> None:
    service = up(launcher, 1)
    for name in ("a", "b"):
        service.get(f"/session?name={name}")
    wait_for(lambda: gauges(service.metrics(), "app_sessions") == {("a",): 1, ("b",): 1}, DEADLINE)
    service.get("/remove?name=a")
    wait_for(lambda: gauges(service.metrics(), "app_sessions") == {("b",): 1}, DEADLINE)
    service.get("/session?name=a")
    wait_for(lambda: gauges(service.metrics(), "app_sessions") == {("a",): 1, ("b",): 1}, DEADLINE)


def test_children_that_the_app_forks_count_for_themselves(launcher: Launcher) -> None:
    service = up(launcher, 1)
    service.get("/fork")
    assert service.metrics().value("app_orders_total", kind="forked") == 1


def test_a_page_waits_for_no_collector_that_hangs(launcher: Launcher) -> None:
    service = up(launcher, 2)
    whole(service, "custom_done_total", 10)
    service.get("/block")
    service.get("/order?kind=tea")
    service.metrics()  # waits a little
    pages, took = [], []
    for _ in range(10):
        began = time.monotonic()
        pages.append(service.metrics())  # does not, for one that owes an answer
        took.append(time.monotonic() - began)
    assert min(took) < PATIENCE
    assert pages[-1].value("app_orders_total", kind="tea") == 1
    assert pages[-1].value("custom_done_total", a="x") == 10


def test_totals_under_load_are_exactly_what_the_clients_counted_though_workers_are_killed(launcher: Launcher) -> None:
    service = up(launcher, 4)
    counted: Counter[str] = Counter()
    lock, done = threading.Lock(), threading.Event()
    address = service.address()

    def client(number: int) -> None:
        for turn in count():
            if turn >= 60 and done.is_set():
                return
            path, kind = f"/order?kind=k{turn % 5}", f"k{turn % 5}"
            if turn % 50 == 25:
                path, kind = "/die", "last"
            connection = dial(address, DEADLINE)
            try:
                connection.request("GET", path)
                connection.getresponse().read()
            except (ConnectionError, http.client.HTTPException):
                # Its worker died under it: by this very request, which has been counted; or by another's, and then
                # this one had not begun: a handler counts and answers in one turn of the loop.
                if kind != "last":
                    continue
            finally:
                connection.close()
            with lock:
                counted[kind] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    pages = []
    for number in range(1, 4):
        service.signal(signal.SIGHUP)
        service.wait_log("reload_ended", count=number)
        pages.append(service.metrics().value("app_orders_total"))
    done.set()
    for thread in threads:
        thread.join()
    assert pages == sorted(pages)
    killers = counted.pop("last")

    def totals() -> dict[str, float]:
        page = service.metrics()
        assert page.value("app_orders_total", kind="last") <= killers
        return {kind: page.value("app_orders_total", kind=kind) for kind in counted}

    # A page may be some milliseconds old; what it says settles on the truth, and then stays there.
    wait_for(lambda: totals() == counted, DEADLINE)
    service.get("/order?kind=end")
    wait_for(lambda: service.metrics().value("app_orders_total", kind="end") == 1, DEADLINE)
    assert totals() == counted
    begun = {record["generation"] for record in service.logged("zygote_ready")}
    assert service.metrics().value("app_imports_total") in {3 * n for n in range(1, len(begun) + 1)}
    assert service.metrics().value("app_seconds_count") == counted.total() + 1


def test_counts_outlive_the_primarys_own_code(launcher: Launcher) -> None:
    service = up(launcher, 2)
    for _ in range(4):
        service.get("/order?kind=tea")
    kill(service.workers()[0]["pid"])
    service.wait_log("worker_ready", count=3)
    service.get("/order?kind=tea")
    whole(service, "app_orders_total", 5)
    before = service.metrics()
    service.signal(signal.SIGUSR2)
    service.wait_log("upgraded", 3 * DEADLINE)
    wait_for(lambda: service.status()["service"]["upgrades"] == 1, DEADLINE, "a primary of new code")
    page = service.metrics()
    for name in ("app_imports_total", "app_orders_total", "app_seconds_count", "app_seconds_sum", "app_bytes_sum"):
        assert page.value(name) == before.value(name), name
    service.get("/order?kind=tea")
    whole(service, "app_orders_total", 6)


SCRIPT = """
import asyncio
from clusterd import cluster
from prometheus_client import Counter, Info

served = Counter("script_served", "Requests.")
Info("script", "Computed.").info({"version": "1"})

async def handle(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    served.inc()
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    writer.close()

async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

cluster.run(main())
"""


def test_a_program_that_uses_cluster_has_its_metrics_there_too(launcher: Launcher) -> None:
    (launcher.folder / "server.py").write_text(SCRIPT)
    settings = {"listeners": None, "pools": {"web": {"app": None, "script": "server.py"}}}
    launcher.configuration(settings, workers=2)
    service = launcher.run("--config", str(launcher.folder / "clusterd.toml"))
    service.wait_log("worker_ready", count=2)
    port = service.wait_log("output", stream="stdout")["text"]
    for _ in range(6):
        assert fetch(f"127.0.0.1:{port}", "/").status == 200
    page = service.metrics()
    assert page.value("script_served_total") == 6
    wait_for(lambda: service.metrics().value("script_info", version="1") == 1, DEADLINE)


FASTAPI = """
from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator

app = FastAPI()
Instrumentator().instrument(app).expose(app)


@app.get("/items/{number}")
def read(number: int) -> int:
    return number
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("instrumented")
    (folder / "shop.py").write_text(FASTAPI)
    with own_launcher(folder) as launcher:
        launcher.configuration({"pools": {"web": {"app": "shop:app"}}}, workers=3)
        service = launcher.run("--config", str(folder / "clusterd.toml"))
        service.wait_log("worker_ready", count=3)
        yield service


def test_a_fastapi_app_with_an_instrumentator_needs_no_change(shop: Service) -> None:
    for number in range(30):
        assert shop.get(f"/items/{number}").text == str(number)

    def counted() -> tuple[float, float]:
        page = shop.metrics()
        every = page.value("http_requests_total", handler="/items/{number}", status="2xx", method="GET")
        return every, page.value("http_request_duration_seconds_count", handler="/items/{number}")

    wait_for(
        lambda: counted() == (30, 30), DEADLINE, "the last one's counts: they are made when its answer has gone out"
    )
    page = shop.metrics()
    assert page.value("clusterd_http_requests_total", code_class="2xx") == 30
    assert not shop.logged("app_metric_refused")

"""The rules and the dashboard against a real Prometheus that scrapes a real service in which things go wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusterd.ops.metrics_table import METRICS
from tests.procfs import wait_for
from tests.real import memory
from tests.real.clients import fetch, split
from tests.real.harness import Launcher, Service, kill

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy/prometheus/clusterd.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/clusterd.json"

PATIENCE = 100.0
"""Seconds for an alert to fire or to resolve: ten times what the longest of the shortened rules takes."""

SPACING = 0.1
"""Seconds between two looks at Prometheus."""

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.needs("promtool"), pytest.mark.timeout(600)]

APP = r"""
import asyncio, os, time

HERE = os.path.dirname(os.path.abspath(__file__))
hoard = []


async def leak():
    while os.path.exists(os.path.join(HERE, "leaking")):
        hoard.append(bytearray(1 << 20))
        await asyncio.sleep(0.1)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        while os.path.exists(os.path.join(HERE, "gate")):
            await asyncio.sleep(0.05)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/block":
        time.sleep(float(scope["query_string"].decode()))
    elif path == "/hog":
        bytearray(1 << 30)
    elif path == "/hang":
        await asyncio.Event().wait()
    elif path == "/leak":
        asyncio.get_running_loop().leaking = asyncio.create_task(leak())
    await send({"type": "http.response.start", "status": 500 if path == "/fail" else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def shortened(rules: str) -> str:
    """The rules with a minute as 0.8 s, eight seconds at most: the faults of a test last no longer."""

    def short(match: re.Match[str]) -> str:
        minutes = int(match["number"]) * {"s": 1 / 60, "m": 1, "h": 60}[match["unit"]]
        return f"{match['before']}{round(min(minutes * 800, 8000))}ms{match['after']}"

    duration = r"(?P<number>\d+)(?P<unit>[smh])"
    rules = re.sub(rf"(?P<before>\[){duration}(?P<after>\])", short, rules)
    return re.sub(rf"(?P<before>for: ){duration}(?P<after>)$", short, rules, flags=re.MULTILINE)


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._pause = threading.Event()

    def _get(self, path: str) -> Any:
        answer = fetch(self.address, path)
        assert answer.status == 200, answer.text
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get(f"/api/v1/query?query={urllib.parse.quote(expression)}")["result"]
        return result

    def firing(self) -> set[str]:
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait(self, condition: Callable[[], object], what: str) -> None:
        def looked() -> object:
            return condition() or self._pause.wait(SPACING)  # a look costs it more than one of ours

        wait_for(looked, PATIENCE, what)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Scrapes ``target`` twice a second and looks at the shortened rules more often."""
    (folder / "rules.yml").write_text(shortened(RULES.read_text()))
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 200ms}\n"
        "rule_files: [rules.yml]\n"
        f"scrape_configs: [{{job_name: clusterd, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    options = ["config.file=prometheus.yml", "storage.tsdb.path=data", "web.listen-address=127.0.0.1:0"]
    command = ["prometheus", *(f"--{option}" for option in options)]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    said: list[str] = []
    listening = threading.Event()

    def read() -> None:
        assert process.stderr
        for line in process.stderr:
            said.append(line.decode(errors="replace"))
            if "Listening on" in said[-1]:
                listening.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert listening.wait(PATIENCE), "".join(said)
        (address,) = [found[1] for line in said if (found := re.search(r"Listening on.*address=(\S+)", line))]
        server = Prometheus(address)
        server.wait(lambda: fetch(address, "/-/ready").status == 200, "Prometheus to be ready")
        yield server
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr
        process.stderr.close()


def test_every_rule_has_its_unit_test_and_they_pass() -> None:
    folder = RULES.parent
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "clusterd.test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    tests = (folder / "clusterd.test.yml").read_text()
    assert {alert for alert in alerts if f"alertname: {alert}" in tests} == alerts
    assert recorded - {name for name in recorded if name in tests} <= {"clusterd:event_loop_lag_seconds:p90_5m"}


def test_every_metric_that_rules_and_dashboard_name_exists() -> None:
    known = {row.name for row in METRICS} | {
        f"{row.name}_{part}" for row in METRICS if row.type == "histogram" for part in ("bucket", "count", "sum")
    }
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    for file in (RULES, DASHBOARD, RULES.with_name("clusterd.test.yml")):
        assert set(re.findall(r"\bclusterd_\w+", file.read_text())) - known == set(), file
        assert set(re.findall(r"\bclusterd:[\w:]+", file.read_text())) - recorded == set(), file


class Faults:
    """What can go wrong with a service, each to be begun and ended."""

    def __init__(self, launcher: Launcher, service: Service) -> None:
        self.folder = launcher.folder
        self.service = service
        self.touched = 0

    def crash(self) -> None:
        """Both workers end, and are there again."""
        workers = self.service.workers()
        ready = len(self.service.logged("worker_ready"))
        for worker in workers:
            kill(worker["pid"])
        self.service.wait_log("worker_ready", count=ready + len(workers))

    def write(self, text: str) -> None:
        """As an editor does; its time is another, so that no stale bytecode is taken for it."""
        (self.folder / "app.py").write_text(text)
        self.touched += 10
        os.utime(self.folder / "app.py", (1_000_000_000 + self.touched,) * 2)

    def reload(self) -> str:
        mark = self.service.mark()
        self.service.signal(signal.SIGHUP)
        return str(self.service.wait_log("reload_ended", after=mark, deadline=PATIENCE)["verdict"])

    def block(self, seconds: float) -> None:
        """Both workers, at once."""
        blocked = [socket.create_connection(split(self.service.address()), PATIENCE) for _ in range(2)]
        for client in blocked:
            client.sendall(f"GET /block?{seconds} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        for client in blocked:
            with client:
                while client.recv(4096):
                    pass


@pytest.fixture
def group() -> Iterator[memory.Group]:
    with memory.group() as made:
        yield made


@pytest.fixture
def service(group: memory.Group, launcher: Launcher) -> Service:
    (launcher.folder / "app.py").write_text(APP)
    pool = {
        "restart": {"initial_delay": "50ms", "max_delay": "100ms", "give_up_after": 0},
        "reload": {"canary": "100ms"}, "steal_after": "0s",
    }  # fmt: skip
    settings = {
        "pools": {"web": pool}, "listeners": {"http": {"backlog": 16}},
        "shutdown": {"linger": "0s", "drain_timeout": "500ms"},
        "memory": {"guard": False},  # the kernel is to be the one that kills
    }  # fmt: skip
    launcher.configuration(settings, workers=2)
    service = launcher.run("--config", str(launcher.folder / "clusterd.toml"), through=group.through)
    service.wait_log("worker_ready", count=2)
    return service


@pytest.mark.slow
def test_alerts_fire_on_their_faults_and_resolve_and_every_panel_has_data(
    group: memory.Group, launcher: Launcher, service: Service, tmp_path: Path
) -> None:
    faults = Faults(launcher, service)
    with prometheus(tmp_path, service.monitoring()) as server:
        server.wait(lambda: bool(server.query("clusterd_ready == 1")), "the first scrape")
        for path in ("/", "/fail"):
            service.get(path)

        def fires(*names: str) -> None:
            server.wait(lambda: set(names) <= server.firing(), f"{names} to fire")

        # workers end again and again
        server.wait(lambda: faults.crash() or "ClusterdCrashLoop" in server.firing(), "a crash loop to be told")
        # workers do not get ready
        (faults.folder / "gate").touch()
        kill(service.workers()[0]["pid"])
        fires("ClusterdNotReady", "ClusterdBelowWantedCapacity")
        (faults.folder / "gate").unlink()
        server.wait(lambda: not server.firing() & {"ClusterdNotReady", "ClusterdBelowWantedCapacity"}, "ready again")
        # a reload that does not work, and one that does, but cuts a request off
        faults.write("raise KeyError('a slip')")
        assert faults.reload() == "rolled_back"
        fires("ClusterdReloadRolledBack")
        faults.write(APP)
        with socket.create_connection(split(service.address()), PATIENCE) as hanging:
            hanging.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
            server.wait(lambda: bool(server.query("sum(clusterd_http_requests_in_flight) > 0")), "a request in flight")
            assert faults.reload() == "promoted"
            fires("ClusterdDrainForced")
        # the kernel kills a worker because there is no memory left
        mark = service.mark()
        with group.bounded(64 << 20), pytest.raises(OSError, match=r"."):
            service.get("/hog")
        assert service.wait_log("worker_exited", after=mark)["reason"] == "oom"
        fires("ClusterdOutOfMemory")
        assert server.query("clusterd_cgroup_oom_kills_total > 0")
        service.wait_log("worker_ready", after=mark)
        # a leak, and meanwhile event loops that stand still again and again; then what waits for them
        (faults.folder / "leaking").touch()
        service.get("/leak")
        stop = threading.Event()

        def keep_blocking() -> None:
            while not stop.is_set():
                faults.block(0.9)

        blocking = threading.Thread(target=keep_blocking)
        blocking.start()
        try:
            fires("ClusterdEventLoopLag", "ClusterdMemoryLeak")
        finally:
            stop.set()
            (faults.folder / "leaking").unlink()
            blocking.join()
        with ExitStack() as waiting:
            for _ in range(8):  # blocked one after another, each for longer than the rule waits
                client = waiting.enter_context(socket.create_connection(split(service.address()), PATIENCE))
                client.sendall(b"GET /block?3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for _ in range(40):
                client = waiting.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(split(service.address()))
            fires("ClusterdBacklogGrowing")
        panels(server)
        server.wait(lambda: not server.firing(), "all alerts to resolve")


def panels(server: Prometheus) -> None:
    """Each query of each panel returns data; of the cgroup's counters only where the kernel has them."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 20
    for title, query in queries:
        said = query
        for name, text in (("$__rate_interval", "60s"), ("$job", ".*"), ("$instance", ".*"), ("$pool", ".*")):
            said = said.replace(name, text)
        if "clusterd_cgroup" in said and not server.query(re.search(r"clusterd_cgroup_\w+", said)[0]):  # type: ignore[index]
            continue
        server.wait(partial(server.query, said), f"data for {title}: {said}")

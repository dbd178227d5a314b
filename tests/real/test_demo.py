"""The demo that ``make run`` starts, and what its greeting tells people to try."""

import importlib.util
import socket
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from websockets.sync.client import connect

from tests.real.clients import ask, split
from tests.real.harness import Launcher, Service

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"


@pytest.fixture
def demo(launcher: Launcher) -> Service:
    """The demo with its own configuration, but for its ports and its run directory, and that turns are exact."""
    own = {"PORT": "0", "MONITORING_PORT": "0", "RUNTIME_DIRECTORY": str(launcher.run_dir)}
    exact = ["--set", "pools.web.steal_after=0s"]  # whose turn it is must not depend on how busy the machine is
    service = launcher.run("--config", str(EXAMPLES / "demo.toml"), *exact, env=own).wait_ready()
    for slot in range(4):  # READY means the first of them; the turn goes over those that are ready
        service.wait_log("worker_ready", slot=slot)
    return service


@pytest.fixture(scope="module")
def starter() -> ModuleType:
    """``deploy/examples/run.py`` as a module."""
    spec = importlib.util.spec_from_file_location("demo_starter", EXAMPLES / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_new_connection_is_answered_by_the_next_worker(demo: Service) -> None:
    pages = [dict(line.split() for line in demo.get().text.splitlines()) for _ in range(40)]
    assert Counter(page["slot"] for page in pages) == dict.fromkeys("0123", 10)
    assert len({page["pid"] for page in pages}) == 4
    assert {page["worker"] for page in pages} == {str(worker["id"]) for worker in demo.workers()}
    assert {page["generation"] for page in pages} == {"1"}


def test_a_browser_gets_a_page(demo: Service) -> None:
    with demo.client() as client:
        page = ask(client, "/", headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "answered, from slot" in page.text


def test_slow_stream_and_unknown_paths_answer(demo: Service) -> None:
    assert "took 0.1 s" in demo.get("/slow?seconds=0.1").text
    assert demo.get("/slow?seconds=soon").status == 400
    assert len(demo.get("/stream").text.splitlines()) == 10
    assert demo.get("/nowhere").status == 404


def test_the_websocket_sends_back_what_it_gets(demo: Service) -> None:
    host, port = split(demo.address())
    with connect(f"ws://{host}:{port}/ws") as websocket:
        assert str(websocket.recv()).startswith("slot ")
        websocket.send("text")
        websocket.send(b"bytes")
        assert [websocket.recv(), websocket.recv()] == ["text", b"bytes"]


def test_a_crash_is_replaced_in_its_slot(demo: Service) -> None:
    before = {worker["slot"]: worker["id"] for worker in demo.workers()}
    mark = demo.mark()
    with pytest.raises((ConnectionError, OSError)):
        demo.get("/crash")
    slot = demo.wait_log("worker_exited", after=mark)["slot"]
    demo.wait_log("worker_ready", after=mark, slot=slot)
    after = {worker["slot"]: worker["id"] for worker in demo.workers()}
    assert after.keys() == before.keys()
    assert {number for number in after if after[number] != before[number]} == {slot}


def test_a_taken_port_is_replaced_by_a_free_one(
    starter: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PORT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        assert starter.port("PORT", number) != str(number)
    assert f"port {number} is taken" in capsys.readouterr().err
    monkeypatch.setenv("PORT", "1234")
    assert starter.port("PORT", number) == "1234"

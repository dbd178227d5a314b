"""A request that takes too long is told of once, with its path and where it is."""

import threading

import pytest

from tests.real.harness import Launcher, Service

APP = r"""
import asyncio, threading, time
from fastapi import FastAPI

app = FastAPI()
gate = threading.Event()
opened = asyncio.Event()


async def deep_in_a_task():
    await opened.wait()


def deep_in_a_thread():
    gate.wait()


def deep_in_the_loop():
    gate.wait()


@app.get("/task")
async def task():
    await deep_in_a_task()


@app.get("/thread")
def thread():
    deep_in_a_thread()


@app.get("/to_thread")
async def to_thread():
    await asyncio.to_thread(deep_in_a_thread)


@app.get("/loop")
async def loop():
    threading.Timer(5.0, gate.set).start()
    deep_in_the_loop()


@app.get("/open")
async def open_the_gate():
    gate.set()
    opened.set()


@app.get("/quick")
async def quick():
    return "quick"
"""


def up(launcher: Launcher, **http: object) -> Service:
    (launcher.folder / "app.py").write_text(APP)
    launcher.configuration({"pools": {"web": {"http": http}}}, workers=1)
    service = launcher.run("--config", str(launcher.folder / "clusterd.toml"))
    service.wait_log("worker_ready")
    return service


@pytest.mark.parametrize(
    ("path", "where", "frame"),
    [
        ("/task", "task", "deep_in_a_task"),
        ("/thread", "thread", "deep_in_a_thread"),
        ("/to_thread", "thread", "deep_in_a_thread"),
        ("/loop", "loop", "deep_in_the_loop"),
    ],
)
def test_it_is_told_once_what_has_it_in_hand_and_where(launcher: Launcher, path: str, where: str, frame: str) -> None:
    service = up(launcher, slow_request="1s")
    assert service.get("/quick").status == 200
    asking = threading.Thread(target=service.get, args=(f"{path}?password=secret",))
    asking.start()
    record = service.wait_log("slow_request", path=path)
    assert (record["method"], record["where"]) == ("GET", where)
    assert (record["pool"], record["slot"], record["level"]) == ("web", 0, "warning")
    assert record["seconds"] >= 1
    assert f", in {frame}\n" in record["stack"]
    assert "uvicorn" not in record["stack"].splitlines()[0]
    service.get("/open")
    asking.join()
    assert service.stop() == 0
    assert len(service.logged("slow_request", path=path)) == 1
    assert not [record for record in service.logged("slow_request") if "secret" in str(record)]


def test_nothing_looks_where_nobody_asked_for_it(launcher: Launcher) -> None:
    service = up(launcher)
    asking = threading.Thread(target=service.get, args=("/loop",))
    asking.start()
    asking.join()
    assert service.stop() == 0
    assert not service.logged("slow_request")

"""A FastAPI application as its tutorial writes one, unchanged, served by two workers from a configuration file."""

from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from tests.real.clients import split
from tests.real.harness import IN_TURN, Service, merged
from tests.real.playground import own_launcher

SHOP = """
import asyncio, os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Query, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field


class Item(BaseModel):
    name: str = Field(min_length=1)
    price: float = Field(gt=0)
    tags: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.items = {1: Item(name="kettle", price=20)}
    yield
    print(f"closed with {len(app.state.items)} items", flush=True)


app = FastAPI(title="Shop", lifespan=lifespan)
app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])


def items() -> dict[int, Item]:
    return app.state.items


Items = Annotated[dict[int, Item], Depends(items)]


@app.get("/items/{item_id}")
async def read_item(item_id: int, items: Items, discount: Annotated[float, Query(ge=0, lt=1)] = 0) -> Item:
    if item_id not in items:
        raise HTTPException(404, "no such item")
    found = items[item_id]
    return found.model_copy(update={"price": found.price * (1 - discount)})


@app.post("/items", status_code=201)
async def make_item(item: Item) -> Item:
    return item


@app.get("/blocking")
def blocking() -> int:
    return os.getpid()


@app.get("/export")
async def export() -> StreamingResponse:
    async def lines():
        for number in range(5):
            yield f"line {number}\\n"
            await asyncio.sleep(0)
    return StreamingResponse(lines(), media_type="text/csv")


@app.post("/mail/{address}")
async def mail(address: str, background: BackgroundTasks) -> dict[str, str]:
    background.add_task(lambda: print(f"mailed {address}", flush=True))
    return {"status": "queued"}


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_json({"said": await websocket.receive_text()})
    except WebSocketDisconnect:
        print("chat left", flush=True)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers of the shop."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP)
    with own_launcher(folder) as launcher:
        launcher.configuration(merged(IN_TURN, {"pools": {"web": {"app": "shop:app"}}}), workers=2)
        service = launcher.run("--config", str(folder / "clusterd.toml"))
        service.wait_log("worker_ready", count=2)
        yield service
        assert service.stop() == 0
        assert {record["slot"] for record in service.logged("output", text="closed with 1 items")} == {0, 1}


@pytest.fixture
def client(shop: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{shop.address()}") as client:
        yield client


def test_the_app_is_imported_once_and_forked(shop: Service) -> None:
    assert shop.wait_log("zygote_ready")["preloaded"] is True
    assert not shop.logged("preload_unsafe")


def test_path_and_query_are_parsed_and_the_lifespan_s_state_is_there(client: httpx.Client) -> None:
    answer = client.get("/items/1", params={"discount": 0.5})
    assert (answer.status_code, answer.json()) == (200, {"name": "kettle", "price": 10.0, "tags": []})
    assert client.get("/items/2").status_code == 404
    assert client.get("/items/x").status_code == 422
    assert client.get("/items/1", params={"discount": 2}).status_code == 422


def test_a_body_is_validated(client: httpx.Client) -> None:
    good = client.post("/items", json={"name": "cup", "price": 3, "tags": ["new"]})
    assert (good.status_code, good.json()["tags"]) == (201, ["new"])
    bad = client.post("/items", json={"name": "", "price": -1})
    assert bad.status_code == 422
    assert {error["loc"][-1] for error in bad.json()["detail"]} == {"name", "price"}


def test_plain_functions_run_in_threads_of_both_workers(shop: Service) -> None:
    pids = {shop.get("/blocking").text for _ in range(4)}
    assert pids == {str(worker["pid"]) for worker in shop.workers()}


def test_a_streaming_response_comes_whole(client: httpx.Client) -> None:
    with client.stream("GET", "/export") as answer:
        assert answer.headers["content-type"].startswith("text/csv")
        assert list(answer.iter_lines()) == [f"line {number}" for number in range(5)]


def test_background_tasks_run_after_the_answer(shop: Service, client: httpx.Client) -> None:
    assert client.post("/mail/ada@example.org").json() == {"status": "queued"}
    shop.wait_log("output", text="mailed ada@example.org")


def test_websockets_talk_and_leave(shop: Service) -> None:
    host, port = split(shop.address())
    with connect(f"ws://{host}:{port}/chat") as chat:
        chat.send("hello")
        assert chat.recv() == '{"said":"hello"}'
    shop.wait_log("output", text="chat left")


def test_middleware_and_documentation_are_served(client: httpx.Client) -> None:
    answer = client.get("/openapi.json", headers={"Origin": "https://shop.example"})
    assert answer.json()["info"]["title"] == "Shop"
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert client.get("/docs").status_code == 200

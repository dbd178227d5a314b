"""Servers that know nothing of clusterd share their port: each with its real package, and not a line of it changed."""

from collections.abc import Sequence

import pytest

from tests.conformance.programs import Run

PRIMARY = """
import http.client

def fetch(port, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()

def be_primary(ask=fetch, **settings):
    listening = 0
    @cluster.on("listening")
    async def _(worker, info):
        nonlocal listening
        listening += 1
        if listening == 2:
            loop = asyncio.get_running_loop()
            answers = [await loop.run_in_executor(None, ask, info.port) for _ in range(6)]
            say(sorted(answers))
            cluster.disconnect()
    cluster.on("exit", lambda worker, *how: say("exit", worker.exited_after_disconnect, *how))
    cluster.setup_primary(steal_after=0)  # whose turn it is must not depend on how busy the machine is
    cluster.fork(), cluster.fork()
    cluster.run()

me = str(cluster.worker.id) if cluster.is_worker else ""
"""

AIOHTTP = """
    from aiohttp import web
    async def hello(request):
        return web.Response(text=me)
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    async def main():
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await never()
        finally:
            await runner.cleanup()
            say("cleaned up")
    cluster.run(main())
"""

UVICORN = """
    import uvicorn
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            say("cleaned up")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": me.encode()})
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    cluster.run(uvicorn.Server(config).serve()MORE)
"""

HYPERCORN = """
    import hypercorn.asyncio, hypercorn.config
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            say("cleaned up")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": me.encode()})
    # It binds its sockets itself, unless it is given one: the kernel's own, that every worker has.
    listener = cluster.listen("127.0.0.1", 0, shared=True)
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = config.accesslog = None
    cluster.run(hypercorn.asyncio.serve(app, config))
"""

WEBSOCKETS = """
    import websockets.asyncio.server
    async def echo(socket):
        await socket.send(me)
    async def main():
        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0):
            try:
                await never()
            finally:
                say("cleaned up")
    cluster.run(main())
"""

HTTP_SERVER = """
    import http.server
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(me)))
            self.end_headers()
            self.wfile.write(me.encode())
        def log_message(self, *what):
            pass
    server = http.server.SERVER(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = cluster.listen("127.0.0.1", 0)
    say("name", server.socket.getsockname()[1] > 0, server.socket.family.name, server.socket.type.name)
    server.serve_forever()
"""

WAITRESS = """
    import logging, waitress
    logging.getLogger("waitress").setLevel(logging.ERROR)  # on a slow machine it warns of requests that wait
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(me)))])
        return [me.encode()]
    waitress.create_server(app, sockets=[cluster.listen("127.0.0.1", 0)], threads=2).run()
"""


def program(worker: str) -> str:
    return f"{PRIMARY}\nif cluster.is_primary:\n    be_primary()\nelse:{worker}"


def shares(run: Run, worker: str, also: Sequence[str] = ()) -> None:
    ended = run(program(worker))
    assert [line[0] for line in ended.said if isinstance(line[0], list)] == [["1", "1", "1", "2", "2", "2"]]
    assert ended.of("exit") == [[True, 0, None]] * 2
    for word in also:
        assert ended.words().count(word) == 2


def test_aiohttp(run: Run) -> None:
    shares(run, AIOHTTP, ["cleaned up"])


@pytest.mark.parametrize("loop", ["", ', loop_class=__import__("uvloop").Loop'], ids=["asyncio", "uvloop"])
def test_uvicorn(run: Run, loop: str) -> None:
    shares(run, UVICORN.replace("MORE", loop), ["cleaned up"])


@pytest.mark.parametrize("kind", ["HTTPServer", "ThreadingHTTPServer"])
def test_the_servers_of_the_standard_library(run: Run, kind: str) -> None:
    shares(run, HTTP_SERVER.replace("SERVER", kind), ["name"])


def test_waitress(run: Run) -> None:
    shares(run, WAITRESS)


def test_hypercorn(run: Run) -> None:
    ended = run(program(HYPERCORN))
    (answers,) = [line[0] for line in ended.said if isinstance(line[0], list)]
    assert len(answers) == 6
    assert set(answers) <= {"1", "2"}
    assert ended.words().count("cleaned up") == 2
    assert ended.of("exit") == [[True, 0, None]] * 2


def test_websockets(run: Run) -> None:
    ended = run(
        program(WEBSOCKETS).replace(
            "be_primary()",
            """
    from websockets.sync.client import connect
    def ask(port):
        with connect(f"ws://127.0.0.1:{port}") as socket:
            return socket.recv()
    be_primary(ask)""",
        )
    )
    assert [line[0] for line in ended.said if isinstance(line[0], list)] == [["1", "1", "1", "2", "2", "2"]]
    assert ended.words().count("cleaned up") == 2


def test_tls_goes_over_the_connections_and_not_over_the_socket_of_cluster_listen(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.fork().on("exit", lambda *how: say("exit", *how))
            cluster.run()
        else:
            import ssl
            listener = cluster.listen("127.0.0.1", 0)
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(listener, server_side=True)
            except (NotImplementedError, ValueError, OSError) as error:
                say("refused", type(error).__name__)
            cluster.worker.disconnect()
            listener.setblocking(True)
            try:
                listener.accept()
            except OSError:
                pass
    """)
    assert ended.words()[0] == "refused"

"""The demo: an ASGI app without a framework whose answers show which worker gave them.

/                 which worker answered, for a person or for curl
/pid              the worker's process id alone
/slow?seconds=2   an answer that takes its time: try it across a drain
/stream           ten lines, two a second
/ws               a WebSocket that sends back what it gets
/crash            this worker ends at once, as a bug would end it
"""

import asyncio
import html
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LONGEST_NAP = 60.0

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>clusterd demo: slot {slot}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}
 h1 {{ border-left: .6rem solid hsl({hue} 70% 50%); padding-left: .8rem }}
 table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ text-align: left; padding: .15rem 1.5rem .15rem 0 }}
 code {{ background: #f3f3f3; padding: .1rem .3rem }}
</style>
<h1>Worker {worker} answered, from slot {slot}</h1>
<table>{rows}</table>
<p>Reload: every new connection goes to the next worker in turn. <button onclick="ask()">Ask 40 times</button></p>
<table id="tally"></table>
<p><a href="/slow?seconds=3">/slow?seconds=3</a> · <a href="/stream">/stream</a> · <a href="/crash">/crash</a>
(this worker dies, its slot is filled again) · <code>kill -9 {pid}</code> does the same</p>
<script>
async function ask() {{
  const tally = {{}};
  for (let i = 0; i < 40; i++) {{
    const text = await (await fetch("/", {{headers: {{accept: "text/plain"}}}})).text();
    const who = text.split("\\n")[0]; tally[who] = (tally[who] || 0) + 1;
    document.getElementById("tally").innerHTML =
      Object.entries(tally).sort().map(([who, n]) => `<tr><td>${{who}}<td>${{n}} ${{"▮".repeat(n)}}`).join("");
  }}
}}
</script></html>
"""


class Demo:
    """The app; ``answered`` counts in this worker alone, because workers share nothing but their ports."""

    def __init__(self) -> None:
        self.answered = 0

    def facts(self) -> dict[str, str]:
        """Who is answering. Read at the request: the app is imported once, before its workers are forked."""
        return {
            "slot": os.environ.get("CLUSTERD_SLOT", "?"),
            "worker": os.environ.get("CLUSTERD_WORKER_ID", "?"),
            "pid": str(os.getpid()),
            "generation": os.environ.get("CLUSTERD_GENERATION", "?"),
            "answered": str(self.answered),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self.echo(scope, receive, send)
        else:
            self.answered += 1
            await self.answer(scope, send)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            phase = (await receive())["type"]
            await send({"type": f"{phase}.complete"})
            if phase == "lifespan.shutdown":
                return

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        if scope["path"] != "/ws":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": f"slot {self.facts()['slot']} listens"})
        while (message := await receive())["type"] == "websocket.receive":
            kind = "text" if message.get("text") is not None else "bytes"
            await send({"type": "websocket.send", kind: message[kind]})

    async def answer(self, scope: Scope, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        match scope["path"]:
            case "/":
                await self.front(scope, send)
            case "/pid":
                await respond(send, 200, f"{os.getpid()}\n")
            case "/slow":
                try:
                    seconds = min(max(0.0, float(query.get("seconds", ["2"])[0])), LONGEST_NAP)
                except ValueError:
                    await respond(send, 400, "seconds is to be a number, as in /slow?seconds=2\n")
                    return
                await asyncio.sleep(seconds)
                await respond(send, 200, f"slot {self.facts()['slot']} took {seconds:g} s\n")
            case "/stream":
                await self.stream(send)
            case "/crash":
                print("the demo was asked to crash", flush=True)
                os._exit(70)
            case path:
                await respond(send, 404, f"no {path} here: / /pid /slow /stream /ws /crash\n")

    async def front(self, scope: Scope, send: Send) -> None:
        facts = self.facts()
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        # Without keep-alive each reload of the page is a new connection, and so the next worker's.
        headers = [(b"connection", b"close")]
        if b"text/html" not in accept:
            lines = [f"slot {facts['slot']}"] + [f"{name} {value}" for name, value in facts.items() if name != "slot"]
            await respond(send, 200, "\n".join(lines) + "\n", headers)
            return
        rows = "".join(f"<tr><th>{name}<td>{html.escape(value)}" for name, value in facts.items())
        hue = int(facts["slot"]) * 137 % 360 if facts["slot"].isdigit() else 0
        page = PAGE.format(rows=rows, hue=hue, **{name: html.escape(value) for name, value in facts.items()})
        await respond(send, 200, page, [*headers, (b"vary", b"accept")], b"text/html; charset=utf-8")

    async def stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(1, 11):
            line = f"{number} of 10 from slot {self.facts()['slot']}\n".encode()
            await send({"type": "http.response.body", "body": line, "more_body": number < 10})
            if number < 10:
                await asyncio.sleep(0.5)


async def respond(
    send: Send,
    status: int,
    text: str,
    headers: Iterable[tuple[bytes, bytes]] = (),
    content_type: bytes = b"text/plain; charset=utf-8",
) -> None:
    """One whole answer."""
    body = text.encode()
    standing = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*standing, *headers]})
    await send({"type": "http.response.body", "body": body})


app = Demo()

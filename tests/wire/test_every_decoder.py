"""Every decoder of what comes from outside, in one table: any bytes give a value or the one error that it names.

What each does with good input stands in the tests of its module. That the table is complete is tested as well.
"""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from itertools import pairwise
from struct import pack
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import clusterd.wire
from clusterd.errors import PeerError
from clusterd.wire import advanced, lines, mail, messages, proxy, reports, tls, zygote
from clusterd.wire.channel import Channel
from clusterd.wire.codecs import ADVANCED, JSON

LIMIT = 4096

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def shaped(*names: str, **fixed: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that look right and hold anything."""
    return st.fixed_dictionaries(
        {name: st.just(value) for name, value in fixed.items()}, optional=dict.fromkeys(names, JSONS)
    )


ACTS = st.sampled_from(
    ["online", "queryServer", "listening", "close", "exitedAfterDisconnect", "newconn", "disconnect", "go", "ready",
     "failed", "collect", "collected", "slowRequest", "unknown"]
)  # fmt: skip
MEMBERS = (
    "seq", "ack", "index", "address", "port", "addressType", "fd", "data", "flags", "backlog", "key", "stage", "report",
    "errno", "accepted", "sockname", "settings", "id", "segments", "seconds", "path", "method",
)  # fmt: skip
CLUSTER = st.builds(lambda act, rest: {**rest, "cmd": "NODE_CLUSTER", "act": act}, ACTS | JSONS, shaped(*MEMBERS))
ANSWERS = st.builds(
    lambda op, rest: json.dumps({**rest, "op": op}).encode(),
    st.sampled_from(["loaded", "unsafe", "failed", "spawned", "spawn_failed", "else"]) | JSONS,
    shaped("v", "worker", "pid", "report", "preloaded", "unsafe", "why", "stage"),
)
LETTERS = st.builds(
    lambda version, time, port, host: pack("!BQH", version, time, port) + host,
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
    st.integers(0, 65535),
    st.binary(max_size=300),
)
HEADERS = st.builds(
    lambda version, family, length, rest: proxy.SIGNATURE + pack("!BBH", version, family, length) + rest,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.binary(max_size=300),
) | st.lists(st.sampled_from([b"TCP4", b"TCP6", b"UNKNOWN", b"1.2.3.4", b"::1", b"80", b"x"])).map(
    lambda words: b" ".join([b"PROXY", *words]) + b"\r\n"
)


def feed(codec: Any) -> Callable[[bytes], object]:
    """Whole way in of a channel: cutting, decoding, pairing."""
    return lambda data: Channel(max_line=LIMIT, codec=codec).feed(data)


def cut(cutter: Callable[[int], Any]) -> Callable[[bytes], object]:
    return lambda data: list(cutter(LIMIT).feed(data))


DECODERS: dict[str, tuple[Callable[[Any], object], st.SearchStrategy[Any]]] = {
    "proxy.parse": (proxy.parse, st.binary(max_size=300) | HEADERS),
    "mail.unpack": (mail.unpack, st.binary(max_size=300) | LETTERS),
    "messages.read": (messages.read, JSONS | CLUSTER),
    "reports.read": (reports.read, JSONS | CLUSTER),
    "lines.Lines.feed": (cut(lines.Lines), st.binary(max_size=2 * LIMIT)),
    "lines.decode": (lines.decode, st.binary(max_size=200) | JSONS.map(lambda value: json.dumps(value).encode())),
    "advanced.Frames.feed": (cut(advanced.Frames), st.binary(max_size=200)),
    "advanced.decode": (advanced.decode, st.binary(max_size=200) | JSONS.map(lambda value: advanced.encode(value)[4:])),
    "channel.Channel.feed": (feed(JSON), st.binary(max_size=200) | CLUSTER.map(lines.encode)),
    "codecs.Cutter.feed": (feed(ADVANCED), st.binary(max_size=200)),
    "zygote.read_answer": (zygote.read_answer, st.binary(max_size=200) | ANSWERS),
}
"""By the decoder's name: it, and what it is fed with."""

TRUSTED = {
    "tls.unpack": tls.unpack,  # in the zygote, of what the primary wrote
    "zygote.read_request": zygote.read_request,
}
"""Decoders of what the primary says: it is trusted with everything."""

NAMES = ("parse", "unpack", "read", "decode", "feed")


@pytest.mark.parametrize("name", DECODERS)
def test_whatever_comes_is_a_value_or_the_peer_s_fault(name: str) -> None:
    decoder, inputs = DECODERS[name]

    @given(inputs)
    def tried(data: Any) -> None:
        said = "well"
        try:
            decoder(data)
        except PeerError as error:
            said = str(error)
        assert 0 < len(said) < 1000, "a message for people, however long the input"

    tried()


@given(st.lists(JSONS | CLUSTER, max_size=5), st.lists(st.integers(0, 400), max_size=6))
@example([{"cmd": "NODE_HANDLE", "type": "net.Native", "msg": {}}], [])
def test_a_channel_takes_its_lines_in_any_pieces(sent: list[Any], cuts: list[int]) -> None:
    data = b"".join(lines.encode(one) for one in sent)
    whole = Channel(max_line=1 << 16).feed(data)
    channel, pieces = Channel(max_line=1 << 16), []
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    for begin, end in pairwise(places):
        pieces += channel.feed(data[begin:end])
    assert json.dumps([one.message for one in pieces]) == json.dumps([one.message for one in whole])


def test_the_table_is_complete() -> None:
    """Every public function or method of the room whose name says that it decodes."""
    found = set()
    for info in pkgutil.iter_modules(clusterd.wire.__path__):
        module = importlib.import_module(f"clusterd.wire.{info.name}")
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") != module.__name__ or name.startswith("_"):
                continue
            if inspect.isfunction(value) and name.split("_")[0] in NAMES:
                found.add(f"{info.name}.{name}")
            elif inspect.isclass(value):
                found |= {
                    f"{info.name}.{name}.{method}" for method in NAMES if inspect.isfunction(vars(value).get(method))
                }
    assert found == {*DECODERS, *TRUSTED}

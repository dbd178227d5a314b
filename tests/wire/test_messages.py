"""What primary and workers say: Node's golden trace, and a reader that takes nothing for granted."""

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.errors import PeerError
from clusterd.wire import messages
from clusterd.wire.channel import Channel
from clusterd.wire.lines import encode
from clusterd.wire.messages import (
    Close,
    Disconnect,
    ExitedAfterDisconnect,
    Failed,
    Go,
    Listening,
    NewConn,
    Online,
    QueryServer,
    Ready,
    Reply,
    read,
)

KEY = "null:39123:4:undefined:0"

# What a real Node worker and a primary said to each other; the last seqs are left open there
WORKER_SAID = [
    '{"cmd":"NODE_CLUSTER","act":"online","seq":0}',
    (
        '{"cmd":"NODE_CLUSTER","act":"queryServer","index":0,"data":null,"address":null,"port":39123,"addressType":4,'
        '"backlog":0,"seq":1}'
    ),
    (
        '{"cmd":"NODE_CLUSTER","act":"listening","index":0,"data":null,"address":null,"port":39123,"addressType":4,'
        '"backlog":0,"seq":2}'
    ),
    '{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":3}',
    '{"cmd":"NODE_CLUSTER","act":"close","key":"null:39123:4:undefined:0","seq":4}',
]
PRIMARY_SAID = [
    (
        '{"cmd":"NODE_CLUSTER","errno":null,"key":"null:39123:4:undefined:0","ack":1,"data":null,"sockname":'
        '{"address":"::","family":"IPv6","port":39123},"seq":0}'
    ),
    (
        '{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":'
        '"null:39123:4:undefined:0","seq":1}}'
    ),
    '{"cmd":"NODE_CLUSTER","act":"disconnect","seq":2}',
]


def said(channel: Channel) -> list[str]:
    return [line for piece in channel.outgoing() for line in piece.data.decode().splitlines()]


def test_a_worker_says_the_golden_trace_to_the_byte() -> None:
    worker = Channel(seq=count())
    worker.send(messages.online())
    query = messages.query_server(0, None, 39123, 4, backlog=0)
    assert worker.ask(query) == 1
    worker.send(messages.listening_for(query, 39123))
    worker.send(messages.accepted(1, True))
    worker.send(messages.close(KEY))
    assert said(worker) == WORKER_SAID


def test_a_primary_says_the_golden_trace_to_the_byte() -> None:
    primary = Channel()
    primary.send(messages.query_reply(1, KEY, sockname=("::", 39123)))
    assert primary.ask(messages.newconn(KEY), 0) == 1
    lines = said(primary)
    primary.feed(b'{"cmd":"NODE_HANDLE_ACK"}\n')
    primary.send(messages.disconnect())
    assert lines + said(primary) == PRIMARY_SAID


def test_the_golden_trace_is_read() -> None:
    assert [read(json.loads(line)) for line in WORKER_SAID] == [
        Online(),
        QueryServer(seq=1, index=0, address=None, port=39123, address_type=4, backlog=0),
        Listening(address_type=4, address=None, port=39123, fd=None),
        Reply(ack=1, accepted=True),
        Close(KEY),
    ]
    assert [read(json.loads(line)) for line in (PRIMARY_SAID[0], PRIMARY_SAID[2])] == [
        Reply(ack=1, key=KEY, sockname=("::", 39123)),
        Disconnect(),
    ]
    assert read(json.loads(PRIMARY_SAID[1])["msg"]) == NewConn(1, KEY)


texts = st.text(max_size=50)
data = st.none() | st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3)
ints = st.integers(0, 2**31 - 1)
queries = st.builds(
    QueryServer,
    seq=ints,
    index=ints,
    address=st.none() | texts,
    port=st.none() | st.integers(-1, 65535),
    address_type=st.sampled_from([4, 6, -1, "udp4", "udp6", None]),
    fd=st.none() | st.integers(-1, 2**31 - 1),
    data=data,
    flags=st.none() | ints,
    backlog=st.none() | ints,
    readable_all=st.booleans(),
    writable_all=st.booleans(),
)


def over_the_wire(message: dict[str, Any]) -> Any:
    channel = Channel()
    (received,) = channel.feed(encode(message))
    assert received.internal
    return read(received.message)


@settings(deadline=None)
@given(queries)
def test_every_query_comes_over_as_it_was_asked(query: QueryServer) -> None:
    fields = {name: getattr(query, name) for name in QueryServer.__slots__ if name != "seq"}
    message = messages.query_server(**fields)
    assert over_the_wire({**message, "seq": query.seq}) == query
    assert over_the_wire(messages.listening_for(message, query.port)) == Listening(
        query.address_type, query.address, query.port, query.fd
    )


@settings(deadline=None)
@given(ints, texts, data, st.none() | st.integers(-200, 0), st.none() | st.tuples(st.ip_addresses().map(str), ints))
def test_every_reply_comes_over_as_it_was_given(
    ack: int, key: str, data: dict[str, Any] | None, errno: int | None, sockname: tuple[str, int] | None
) -> None:
    sockname = sockname and (sockname[0], sockname[1] % 65536)
    message = messages.query_reply(ack, key, errno=errno, data=data, sockname=sockname)
    assert over_the_wire(message) == Reply(ack, None, errno, key, data, sockname)


def test_our_own_acts_come_over() -> None:
    assert over_the_wire(messages.go(slot=1, pool="web")) == Go({"slot": 1, "pool": "web"})
    assert over_the_wire({"cmd": "NODE_CLUSTER", "act": "go"}) == Go({})
    assert over_the_wire(messages.ready()) == Ready()
    assert over_the_wire(messages.failed("import", "no é")) == Failed("import", "no é")
    assert over_the_wire({**messages.exited_after_disconnect(), "seq": 3}) == ExitedAfterDisconnect(3)
    assert over_the_wire(messages.acknowledgement(3)) == Reply(3)
    assert over_the_wire(messages.listening("127.0.0.1", 80, 4)) == Listening(4, "127.0.0.1", 80, None)


def test_a_report_is_cut_by_its_middle_and_can_be_printed_whoever_sent_it() -> None:
    report = "Traceback\n" + "x" * 100_000 + "\nValueError: \ud800"
    sent: tuple[dict[str, Any], ...] = (
        messages.failed("import", report),
        {"cmd": "NODE_CLUSTER", "act": "failed", "stage": "", "report": report},
    )
    for message in sent:
        failed = over_the_wire(message)
        assert isinstance(failed, Failed)
        assert len(failed.report) == messages.MAX_REPORT
        assert failed.report.startswith("Traceback\n")
        assert failed.report.endswith("\nValueError: \\ud800")
        assert failed.report.encode()


def test_node_may_say_backlog_as_it_likes() -> None:
    query = {**messages.query_server(0, None, 0, 4), "seq": 0}
    for said, meant in ((False, None), (None, None), (2.5, 2), (-1, 0), (1e308, 2**31 - 1), (511, 511)):
        asked = over_the_wire({**query, "backlog": said})
        assert isinstance(asked, QueryServer)
        assert asked.backlog == meant


def test_what_is_not_for_us_is_ignored() -> None:
    ignored: list[object] = [
        None,
        7,
        "NODE_CLUSTER",
        [],
        {},
        {"cmd": "NODE_HANDLE"},
        {"cmd": "NODE_CLUSTER"},
        {"cmd": "NODE_CLUSTER", "act": "of a later version", "key": 7},
        {"cmd": "NODE_CLUSTER", "act": ["online"]},
        {"cmd": "NODE_CLUSTER", "ack": "1"},
        {"cmd": "NODE_CLUSTER", "ack": True},
    ]
    assert [read(message) for message in ignored] == [None] * len(ignored)
    assert read({"cmd": "NODE_CLUSTER", "ack": -1}) == Reply(-1)  # answers nothing: Channel says so


QUERY = {**messages.query_server(0, None, 80, 4), "seq": 0}


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({**QUERY, "seq": None}, "act queryServer with seq = null; expected an integer from 0"),
        ({**QUERY, "seq": True}, "seq = bool"),
        ({**QUERY, "index": -1}, "index = -1"),
        ({**QUERY, "index": 10**400}, "index = int"),
        ({**QUERY, "address": 7}, "address = 7; expected text"),
        ({**QUERY, "address": "x" * 4097}, "address = 'xxxx.*at most 4096 characters"),
        ({**QUERY, "address": "\ud800"}, r"address = '\\ud800'"),
        ({**QUERY, "port": 65536}, "port = 65536"),
        ({**QUERY, "port": "80"}, "port = '80'"),
        ({**QUERY, "addressType": 5}, "addressType = 5; expected 4, 6, -1, udp4, udp6 or null"),
        ({**QUERY, "addressType": 4.0}, "addressType = float"),
        ({**QUERY, "addressType": [4]}, "addressType = list"),
        ({**QUERY, "fd": -2}, "fd = -2"),
        ({**QUERY, "data": []}, "data = list; expected an object or null"),
        ({**QUERY, "data": {"ticketKeys": "x" * 70_000}}, "data = dict; expected at most 65536 bytes"),
        ({**QUERY, "flags": 1.5}, "flags = float"),
        ({**QUERY, "backlog": "10"}, "backlog = '10'"),
        ({"cmd": "NODE_CLUSTER", "act": "close"}, "act close with key = null"),
        ({"cmd": "NODE_CLUSTER", "act": "exitedAfterDisconnect"}, "seq"),
        ({"cmd": "NODE_CLUSTER", "act": "failed", "stage": "import"}, "report = null; expected text"),
        ({"cmd": "NODE_CLUSTER", "act": "go", "settings": 7}, "settings = 7"),
        ({"cmd": "NODE_CLUSTER", "ack": 1, "accepted": 1}, "a reply with accepted = 1; expected true"),
        ({"cmd": "NODE_CLUSTER", "ack": 2**40}, "ack = "),
        ({"cmd": "NODE_CLUSTER", "ack": 1, "sockname": {}}, "a sockname with address = null"),
    ],
)
def test_a_known_act_with_a_wrong_member_is_the_peers_fault(message: dict[str, Any], says: str) -> None:
    with pytest.raises(PeerError, match=says):
        read(message)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
members = ["seq", "ack", "index", "address", "port", "addressType", "fd", "data", "flags", "backlog", "key", "stage"]
members += ["report", "settings", "accepted", "errno", "sockname", "readableAll"]


@settings(deadline=None)
@given(
    st.fixed_dictionaries({"cmd": st.just("NODE_CLUSTER")}, optional=dict.fromkeys(members, values)),
    st.none() | st.sampled_from(list(messages.Act)) | values,
)
def test_any_members_give_a_message_or_nothing_or_a_peer_error(message: dict[str, Any], act: object) -> None:
    if act is not None:
        message["act"] = act
    try:
        read(message)
        fault = ""
    except PeerError as error:
        fault = str(error)
    assert fault.isprintable()
    assert len(fault) < 1000

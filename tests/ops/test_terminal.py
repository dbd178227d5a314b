from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from clusterd.core.facts import ExitReason
from clusterd.ops.document import Status
from clusterd.ops.status import status
from clusterd.ops.terminal import COLUMNS, DROPPED, fitting, plain, rich_table, rows
from tests.ops.staged import ABOUT, Staged, healthy_view, pool_view, slot_view, worker_view


def some() -> Status:
    slots = [
        slot_view(0, 1),
        slot_view(1, None, next_start=101.6, last_reason=ExitReason.CRASH, starts=3),
        slot_view(2, None, given_up=True, last_reason=ExitReason.BOOT, starts=5),
    ]
    workers = [worker_view(1, 0), worker_view(2, 1, "draining")]
    view = replace(healthy_view(1), pools=(pool_view(slots, workers),))
    return status(ABOUT, Staged(view, rows={1: {"heartbeat_ns": 1, "connections_open": 3, "requests_2xx": 70}}))


def test_the_table_says_what_is() -> None:
    lines = plain(some()).splitlines()
    assert lines[:3] == [
        "shop: running, ready, up 1 m 0 s, pid 4711",
        "listening on 127.0.0.1:8000 (http)",
        "monitoring on 127.0.0.1:9190",
    ]
    table = [line.split() for line in lines[3:]]
    assert table[0] == list(COLUMNS)
    assert table[1][:3] == ["web", "0", "1"]
    assert table[1][4:] == ["ready", "1", "10.0", "s", "0", "3", "-", "-", "-", "0.0", "ms"]
    assert "vacant, starts in 1.6 s" in lines[5]
    assert "2 (crash)" in lines[5]
    assert "given up" in lines[6]
    assert "draining" in lines[7]


def test_what_is_odd_stands_above_the_table() -> None:
    pools = (pool_view([slot_view(0, None)], []), pool_view([slot_view(0, None)], [], name="cpu", given_up=True))
    text = plain(status(ABOUT, Staged(replace(healthy_view(1), ready=False, pools=pools), left=[77, 78])))
    assert "shop: running, not ready" in text
    assert "pool web: 0 ready, 1 needed" in text
    assert "pool cpu has given up" in text
    assert "left over from an earlier primary: 77, 78" in text


def test_a_slot_that_is_held_is_no_vacancy() -> None:
    pool = pool_view([slot_view(0, 1), slot_view(1, None, held=True)], [worker_view(1, 0)])
    lines = plain(status(ABOUT, Staged(replace(healthy_view(1), pools=(pool,))))).splitlines()
    assert "held: web/1; `clusterd start web/1` fills it again" in lines
    (row,) = [line.split() for line in lines if line.startswith("web   1")]
    assert row[4] == "held"


def test_a_narrow_terminal_loses_columns_in_the_stated_order() -> None:
    table = list(rows(some()))
    assert fitting(table, None) == list(COLUMNS)
    before = set(COLUMNS)
    for width in range(200, 0, -1):
        columns = set(fitting(table, width))
        assert columns <= before
        assert columns == set(COLUMNS) - set(DROPPED[: len(COLUMNS) - len(columns)])
        before = columns
    assert before == {"pool", "slot", "state"}


@pytest.mark.parametrize("width", [200, 80, 60])
def test_on_a_terminal_it_is_as_wide_as_the_terminal_at_most(width: int) -> None:
    out = StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="standard").print(rich_table(some(), width))
    assert "\x1b[32mready" in out.getvalue()
    assert "web" in out.getvalue()
    assert "…" not in out.getvalue()

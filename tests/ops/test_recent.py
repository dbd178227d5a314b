"""The recent output in memory: the last lines of each worker, never more than its share."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from clusterd.ops import recent as room
from clusterd.ops.recent import Choice, Recent

WHO = st.tuples(st.sampled_from(["web", "cpu"]), st.integers(0, 3))


def filled(lines: list[tuple[tuple[str, int], str]]) -> Recent:
    recent = Recent()
    for (pool, worker), text in lines:
        recent.add(pool, worker, worker, "stdout", text)
    return recent


@given(st.lists(st.tuples(WHO, st.text(max_size=20)), max_size=60), st.integers(0, 80), st.sampled_from([None, "web"]))
def test_the_last_lines_are_those_that_came_last_in_order(
    lines: list[tuple[tuple[str, int], str]], count: int, pool: str | None
) -> None:
    found = filled(lines).last(count, Choice(pool=pool))
    expected = [text for (name, _), text in lines if pool in (None, name)]
    assert [line.text for line in found] == (expected[-count:] if count else [])


def test_a_worker_that_prints_much_drives_out_its_own_lines_only() -> None:
    recent = Recent()
    recent.add("web", 0, 1, "stdout", "kept")
    for number in range(10_000):
        recent.add("web", 1, 2, "stdout", f"{number} " + "x" * 1000)
        assert recent.size <= room.LARGEST_SHARE + 2 * (1000 + room.LINE_COST)
    assert [line.text for line in recent.last(5, Choice(worker=1))] == ["kept"]
    assert recent.last(1, Choice(worker=2))[0].text.startswith("9999 ")


def test_many_workers_share_what_there_is() -> None:
    recent = Recent()
    for worker in range(500):
        for _ in range(30):
            recent.add("web", worker, worker, "stdout", "x" * 1000)
    assert recent.size <= room.MAX_BYTES + 500 * (1000 + room.LINE_COST)
    assert all(recent.last(1, Choice(worker=worker)) for worker in range(500))


def test_the_output_of_the_ended_is_kept_for_a_while() -> None:
    recent = Recent()
    for worker in range(200):
        recent.add("web", 0, worker, "stdout", "x")
        recent.ended("web", worker)
        recent.ended("web", 10_000)
    assert [line.worker for line in recent.last(1000, Choice())] == list(range(200 - room.MAX_ENDED, 200))


def test_since_leaves_out_what_is_older() -> None:
    recent = filled([(("web", 1), "a")])
    now = datetime.now(UTC)
    assert recent.last(5, Choice(), now - timedelta(seconds=100))
    assert not recent.last(5, Choice(), now + timedelta(seconds=1))

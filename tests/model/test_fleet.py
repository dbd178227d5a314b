"""A thousand pods of eight workers: releases good and bad, drained nodes, and a minute without what all depend on."""

import pytest

from tests.model.fleet import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PODS, WORKERS, NODES = 1000, 8, 50
SURGE = 30  # 3 %: eight workers of each, every eleven seconds, are 22 starts a second; that end at start, 40


def test_a_fleet_lives_through_releases_drains_and_an_outage() -> None:
    fleet = Fleet(PODS, WORKERS, NODES, SURGE)
    fleet.run(fleet.settled)
    assert fleet.ready == 1.0

    fleet.least_ready = 1.0
    begun = fleet.now
    fleet.roll("v2")
    fleet.run(fleet.settled)
    print(f"good release: {fleet.now - begun:.0f} s, {fleet.least_ready:.1%} ready at the least")
    assert fleet.least_ready >= 0.75

    for bad in ("no import", "no start"):
        fleet.least_ready, begun, starts = 1.0, fleet.now, len(fleet.starts)
        fleet.roll(bad)
        fleet.run(fleet.now + 600.0)
        assert sum(pod.release == "v2" for pod in fleet.pods.values()) >= PODS - SURGE
        print(
            f"bad release ({bad}): {fleet.least_ready:.1%} ready at the least, {len(fleet.starts) - starts} starts in"
            f" 10 minutes, {fleet.most_starts(begun + 60):.1f} a second over the worst 30 s after the first minute"
        )
        assert fleet.least_ready >= 0.75
        assert fleet.most_starts(begun + 60) <= 50
        fleet.roll("v2")
        fleet.run(fleet.settled)

    fleet.least_ready, begun = 1.0, fleet.now
    fleet.drain(5)
    fleet.run(fleet.settled)
    print(f"5 of {NODES} nodes drained: {fleet.now - begun:.0f} s, {fleet.least_ready:.1%} ready at the least")
    assert fleet.least_ready >= 0.75

    begun = fleet.now
    fleet.roll("v3")
    fleet.run(fleet.now + 20.0)
    fleet.drain(2)
    fleet.reaches = False  # in the middle of it, for a minute: who serves goes on, who starts fails
    fleet.run(fleet.now + 60.0)
    back = fleet.now
    fleet.reaches = True
    fleet.run(fleet.settled)
    print(
        f"outage of a minute in a rollout with drains: {fleet.least_ready:.1%} ready at the least, whole again after"
        f" {fleet.now - back:.0f} s, {fleet.most_starts(back):.1f} starts a second over the worst 30 s"
    )
    assert fleet.least_ready >= 0.75
    assert fleet.most_starts(back) <= 50

    begun = fleet.now
    fleet.reaches = False
    fleet.crash()  # the worst that an app can make of it
    fleet.run(fleet.now + 120.0)
    back = fleet.now
    fleet.reaches = True
    fleet.run(fleet.settled)
    print(
        f"every worker dies of an outage of two minutes: {fleet.most_starts(begun + 60, back):.1f} starts a second over"
        f" the worst 30 s of its second minute, {fleet.most_starts(back):.1f} after its end; whole again"
        f" {fleet.now - back:.0f} s after it"
    )
    assert fleet.most_starts(begun + 60) <= 50, "the outage's end is no less gentle than the rest of it"

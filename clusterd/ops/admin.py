"""The routes of the monitoring address, and what the health checks look at."""

from collections.abc import Callable, Mapping

from clusterd.core.facts import View
from clusterd.ops.exchange import TEXT, Request, Response, Routes
from clusterd.ops.metrics import Metrics
from clusterd.ops.source import Source

LOOP_AGE = 5.0
"""Seconds without a turn of the primary's loop from which on ``/livez`` says 503. A loop that does not turn at all
answers nothing, so this tells of one that is starved; far above any pause of a loaded machine, because a restart ends
every worker with the primary."""

Page = Callable[[Request], Response]

Check = tuple[str, bool, str]
"""What was looked at, whether it is well, and how it is."""


def live_checks(source: Source) -> list[Check]:
    """Whether the primary itself works; pools do not count, since a restart of the primary would not help them."""
    age, late, broken = source.loop_age(), source.overdue(), source.broken()
    return [
        ("loop", age < LOOP_AGE, f"turned {age:.1f} s ago"),
        ("rules", not broken and late < LOOP_AGE, broken or f"{late:.1f} s late"),
    ]


def ready_checks(source: Source) -> list[Check]:
    """Whether the service is ready for work."""
    view = source.view()
    running = view.phase == "running"
    checks = [("service", view.ready, view.phase if not running else "ready" if view.ready else "not ready")]
    for pool in view.pools:
        well = pool.ready >= pool.min_ready
        checks.append((f"pool {pool.name}", well, f"{pool.ready} of {pool.wanted} ready, {pool.min_ready} needed"))
    return checks


def startup_checks(source: Source) -> list[Check]:
    """Whether the service was ready once."""
    view = source.view()
    return [("startup", view.was_ready, "was ready" if view.was_ready else "not ready yet"), *_zygotes(view)]


def _zygotes(view: View) -> list[Check]:
    return [
        (f"pool {pool.name}", True, f"zygote {pool.zygote}, {pool.ready} of {pool.wanted} ready")
        for pool in view.pools
        if not view.was_ready
    ]


def _details(view: View) -> list[str]:
    """A line a slot, for ``?verbose``."""
    lines = []
    for pool in view.pools:
        workers = {worker.id: worker for worker in pool.workers}
        for slot in pool.slots:
            worker = None if slot.worker is None else workers.get(slot.worker)
            if worker is not None:
                how = f"{worker.state}, worker {worker.id}, generation {worker.generation}"
            elif slot.held:
                how = "held by an operator"
            elif slot.given_up:
                how = "given up"
            elif slot.next_start is not None:
                how = f"vacant, next start in {max(0.0, slot.next_start - view.now):.1f} s"
            else:
                how = "vacant"
            ends = f", {slot.ends} ended, last: {slot.last_reason.value}" if slot.last_reason is not None else ""
            lines.append(f"     {pool.name}/{slot.index}: {how}{ends}")
    return lines


def _health(source: Source, checks: Callable[[Source], list[Check]]) -> Page:
    def handler(request: Request) -> Response:
        results = checks(source)
        lines = [f"{'ok  ' if well else 'FAIL'} {name}: {how}" for name, well, how in results]
        if "verbose" in request.query:
            lines += _details(source.view())
        well = all(well for _, well, _ in results)
        return Response(200 if well else 503, "\n".join([*lines, ""]).encode(), TEXT)

    return handler


def health_routes(source: Source) -> Mapping[str, Page]:
    """The three health checks, which all servers answer."""
    return {
        "/livez": _health(source, live_checks),
        "/readyz": _health(source, ready_checks),
        "/startupz": _health(source, startup_checks),
    }


def monitoring_routes(source: Source, metrics: Metrics) -> Routes:
    """What anybody who reaches the monitoring address may read. Nothing here changes anything."""

    async def page(request: Request) -> Response:
        body, content_type = await metrics.page_in_turns(request.headers.get("accept", ""))
        return Response(200, body, content_type)

    return {"/metrics": page, **health_routes(source)}

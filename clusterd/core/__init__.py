"""The supervision rules: values in, values out.

Theory of operation
===================

One :class:`~clusterd.core.supervisor.Supervisor` is the whole of the rules of one service. A shell tells it what
happened (:mod:`.events`) and what time it is; it answers what is to be done (:mod:`.commands`) and what has become
true (:mod:`.facts`)::

    commands, facts = supervisor.handle(event, now)
    next_call_at = supervisor.deadline()

There are two shells: :mod:`clusterd.primary` with real processes, and ``tests/world.py`` with a clock, latency, loss,
reordering and failing forks. What the rules promise is shown in the second before a process is ever forked.

**Three machines.** *Workers* (:mod:`.lifecycle`): one table, state by input. *Pools* (:mod:`.converge`): no table but
one pass from what is to what should be, run after every event; slots, the zygote, back-off and probing are levels,
not edges. *The service* (:class:`~clusterd.core.supervisor.Phase`): running, lame duck, closing, draining, ending,
ended; it only goes forward.

**Who is who.** A worker is its ``id``, which is never used twice; a zygote is its pool and generation. Pids, sockets
and clocks are the shell's. An answer for a worker that is gone is late and of no use, and changes nothing.

**The laws**, each held by a test:

1. Every command is answered by exactly one event: ``Spawn`` by ``Spawned`` or ``SpawnFailed``; ``Drain`` and ``Kill``
   by the worker's one ``Exited``; ``StartZygote`` by ``ZygoteReady`` or ``ZygoteFailed``; ``StopZygote`` by
   ``ZygoteGone``; ``CloseListeners`` by ``ListenersClosed``. A shell that loses a process makes the answer up.
2. ``deadline()`` is in the future after every ``handle``: a tick never asks for another tick at the same moment.
3. Living workers that were not asked to go are never more than the wanted number, and one a slot.
4. Starts are bounded in any pattern of crashes: a row of unexpected ends doubles its delay from ``initial_delay`` up
   to ``max_delay``, and a pool that has given up starts one process at a time.
5. Every stop ends: by itself, at the drain deadline, or at once when asked twice.
6. A primary that was late itself (suspended, starved) gives running timers the time back before it blames a worker.
"""

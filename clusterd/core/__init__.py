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

**Edges.** *A worker* (:mod:`.lifecycle`) is one table, state by input; what its edges ask for is done in
:mod:`.workers`. *A zygote* (:mod:`.zygotes`) is absent, starting, ready or stopping. *The service*
(:class:`~clusterd.core.shutdown.Phase`) is running, lame duck, closing, draining, ending, ended; it only goes forward.

**Levels.** What a pool should be (:mod:`.converge`) and whether it has given up (:mod:`.restarts`) are no tables: they
are looked at anew after every event, and ask neither which event it was nor what they did the last time.

**Who is who.** A worker is its ``id``, which is never used twice; a zygote is its pool and generation. Pids, sockets
and clocks are the shell's. An answer for a worker that is gone is late and of no use, and changes nothing.

**The laws**, each held by a test:

1. Every command is answered by exactly one event: ``Spawn`` by ``Spawned`` or ``SpawnFailed``; ``Drain`` and ``Kill``
   by the worker's one ``Exited``; ``StartZygote`` by ``ZygoteReady`` or ``ZygoteFailed``; ``StopZygote`` by the
   zygote's one end; ``CloseListeners`` by ``ListenersClosed``. A shell that loses a process makes the answer up.
2. ``deadline()`` is in the future after every ``handle``: a tick never asks for another tick at the same moment.
3. Living workers that were not asked to go are never more than the wanted number, and one a slot.
4. Starts are bounded in any pattern of crashes: a row of unexpected ends doubles its delay from ``initial_delay`` up
   to ``max_delay``, and a pool that has given up starts one process at a time, every ``max_delay``, until one lives
   long enough for its end not to be rapid. Then the others follow at once.
5. Every stop ends: by itself, at the drain deadline, or at once when asked twice. SIGKILL is waited for, but not for
   ever: what it does not end is named in ``Stopped``.
6. A primary that was late itself (suspended, starved) gives running timers the time back before it blames a worker.

They are shown for every history of one and two workers (``tests/model/explore.py``) and sought in larger worlds; that
the tests would notice if a rule slipped is itself tested (``tests/model/mutants.py``).
"""

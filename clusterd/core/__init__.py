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
*A reload* (:mod:`.reload`) imports, watches its canaries, rolls, and has its verdict.

**Levels.** What a pool should be (:mod:`.converge`) and whether it has given up (:mod:`.restarts`) are no tables: they
are looked at anew after every event, and ask neither which event it was nor what they did the last time. What workers
say of themselves (:mod:`.vitals`) makes one hang, worn, or worse than the generation before.

**Who is who.** A worker is its ``id``, which is never used twice; a zygote is its pool and generation. Pids, sockets
and clocks are the shell's. An answer for a worker that is gone is late and of no use, and changes nothing. To its pool
a worker is the *holder* of a slot, the *successor* of one that still holds it (a canary is the first of a generation),
a *spare* without a slot, or leaving. A slot whose holder is of another generation than the pool is filled with, or is
to be recycled, gets a successor; when that is ready it takes the slot, and only then is the holder told to go. Reload,
restart and recycling are this one rule.

**Generations.** A pool has one, and for the time of a reload a *candidate*. Until that rolls, what falls vacant is
filled with the old code; from then on with the new. A failure takes the candidate away and nothing else: holders of its
generation are then those that ought to be others. The zygote of a generation stays as long as it may be needed and any
worker that it forked lives.

**The laws**, each held by a test:

1. Every command is answered by exactly one event: ``Spawn`` by ``Spawned`` or ``SpawnFailed``; ``Admit``, ``Drain`` and
   ``Kill`` by the worker's one ``Exited``; ``TakeStacks`` by ``StacksTaken`` or the end; ``StartZygote`` by
   ``ZygoteReady`` or ``ZygoteFailed``; ``StopZygote`` by the zygote's one end; ``Settle`` by ``Settled``;
   ``CloseListeners`` by ``ListenersClosed``. A shell that loses a process makes the answer up.
2. ``deadline()`` is in the future after every ``handle``: a tick never asks for another tick at the same moment.
3. Living workers that were not asked to go are never more than wanted, ``surge`` and spares; where the old code cannot
   be forked again, or a part of a pool returns to it, never more than twice wanted and spares.
4. A wanted slot that has a ready worker keeps one, through every reload and its failure, unless that worker falls: it
   ends, leaves, hangs, or is killed for memory. A ready spare takes its place in the same call. A slot that an operator
   holds keeps none, and has none until it is released.
5. Every reload has exactly one verdict. Promoted: each slot had a ready worker of it, and the canary of every pool had
   stayed well for its time. A stop wins over it, and another reload supersedes it.
6. Starts are bounded in any pattern of crashes: a row of unexpected ends doubles its delay from ``initial_delay`` up
   to ``max_delay``, a spare that takes a place owes its delay, and successors have a row of their own. A pool that has
   given up starts one process at a time, every ``max_delay``, until one lives long enough for its end not to be rapid.
   That one keeps its slot, and the others follow one at a time: a whole pool within five ``max_delay`` and its starts,
   and no two sooner than ``max_delay`` in a pool of up to six. So a fleet that waited for one thing does not fell it
   again, and a pool of ``min_ready = 1`` is ready within ``max_delay``. An operator's start of the pool does not wait.
7. Every stop ends: by itself, at the drain deadline, or at once when asked twice. SIGKILL is waited for, but not for
   ever: what it does not end is named in ``Stopped``.
8. A primary that was late itself (suspended, starved) gives running timers, and a canary, the time back, and takes
   nobody's silence for a hang while it did not listen.

They are sentences in ``tests/laws.py`` and ``tests/model/watched.py``, shown for every history of one and two workers
(``tests/model/explore.py``) and sought in larger worlds and longer lives; that the tests would notice if a rule slipped
is itself tested (``tests/model/mutants.py``).
"""

"""Planted faults: each a plausible slip in one rule of the core, and each caught by the fast tests.

``python -m tests.model.mutants`` plants them one after another in a copy of the package and runs ``tests/core`` and the
fast part of ``tests/model`` against it; a mutant that survives is a rule that no test holds. With names as arguments it
runs those, and shows what caught them.
"""

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """One slip: in ``file`` of the core, ``right`` became ``wrong``."""

    name: str
    file: str
    right: str
    wrong: str


MUTANTS = (
    Mutant(
        "a spawn in flight is forgotten when its worker is to go",
        "lifecycle.py",
        "        _I.SPAWNED: (_S.KILLING, _D.KILL),",
        "        _I.SPAWNED: (_S.BOOTING, _D.NOTHING),",
    ),
    Mutant(
        "a boot has no deadline",
        "lifecycle.py",
        "        _I.KILL: (_S.KILLING, _D.KILL),\n        _I.TIMEOUT: (_S.KILLING, _D.KILL),\n    },\n    _S.READY",
        "        _I.KILL: (_S.KILLING, _D.KILL),\n        _I.TIMEOUT: (_S.BOOTING, _D.NOTHING),\n    },\n    _S.READY",
    ),
    Mutant(
        "a drain has no deadline",
        "workers.py",
        "worker.drained_at, worker.until = moment.now, self._shutdown.drain_by(moment.now)",
        "worker.drained_at, worker.until = moment.now, None",
    ),
    Mutant(
        "the boot's deadline still runs when the worker is ready",
        "workers.py",
        "worker.ready_at, worker.until = moment.now, None",
        "worker.ready_at = moment.now",
    ),
    Mutant(
        "what SIGKILL cannot end is waited for",
        "workers.py",
        "worker.until, worker.abandoned = None, True",
        "worker.until = None",
    ),
    Mutant(
        "a spawn that its zygote took with it is blamed on the slot",
        "workers.py",
        "if worker.asked is None and zygote.state is ZygoteState.READY:",
        "if worker.asked is None:",
    ),
    Mutant(
        "a zygote that died in a fork is asked again",
        "workers.py",
        "            zygotes.stop(pool, zygote, moment)  # nobody",
        "            pass  # nobody",
    ),
    Mutant(
        "a worker that drains keeps its slot",
        "workers.py",
        "        self._pools[worker.pool].vacate(worker)\n        worker.asked =",
        "        worker.asked =",
    ),
    Mutant("a drain is dated anew for each worker", "shutdown.py", "return self.drain_deadline if", "return None if"),
    Mutant(
        "a fork that hangs at the stop is waited for as long as a boot",
        "workers.py",
        "times = (worker.until, self._shutdown.drain_by(moment.now))",
        "times = (worker.until,)",
    ),
    Mutant("the delay grows from the second end on", "policy.py", "min(row - 1, 40)", "min(max(row - 2, 0), 40)"),
    Mutant("the delay has no upper bound", "policy.py", ", policy.max_delay)", ", 1e9)"),
    Mutant(
        "healthy and rapid are the same",
        "restarts.py",
        "slot.row = 0 if ready_for is not None and ready_for >= policy.healthy_after",
        "slot.row = 0 if ready_for is not None and ready_for >= steady_after(policy)",
    ),
    Mutant(
        "rapid ends need not be in a row",
        "restarts.py",
        "steady_after(policy) else 0",
        "steady_after(policy) else slot.rapid",
    ),
    Mutant(
        "one attempt too many", "restarts.py", "slot.rapid >= policy.give_up_after", "slot.rapid > policy.give_up_after"
    ),
    Mutant(
        "a probe that lives frees all at once",
        "restarts.py",
        "pool.probe_at = now + pace(pool, slot.index)",
        "pool.probe_at = now",
    ),
    Mutant(
        "a large pool recovers as slowly as probes fail", "restarts.py", "min(1.0, RECOVERY /", "max(1.0, RECOVERY /"
    ),
    Mutant(
        "a small pool recovers faster than its probes fail", "restarts.py", "min(1.0, RECOVERY /", "min(0.5, RECOVERY /"
    ),
    Mutant(
        "spares come before those that gave up",
        "restarts.py",
        "pool.spare_start = max(pool.spare_start, now + RECOVERY",
        "pool.spare_start = max(pool.spare_start, now + 0",
    ),
    Mutant("a pool has given up when any slot has", "restarts.py", "given_up = all(", "given_up = any("),
    Mutant(
        "a pool that never worked is probed",
        "converge.py",
        "if pool.probe is not None or not pool.ever_ready:",
        "if pool.probe is not None:",
    ),
    Mutant(
        "a pool is halted only if told to stop",
        "restarts.py",
        "not pool.ever_ready or policy.on_give_up",
        "policy.on_give_up",
    ),
    Mutant(
        "all that gave up probe at once",
        "converge.py",
        "if pool.probe is not None or not pool.ever_ready:",
        "if not pool.ever_ready:",
    ),
    Mutant(
        "pools that fell together probe together",
        "restarts.py",
        "now + least + lot * (policy.max_delay - least)",
        "now + policy.max_delay",
    ),
    Mutant(
        "the first probe comes before the delay that its slot owes",
        "restarts.py",
        "now + least + lot * (policy.max_delay - least)",
        "now + lot * (policy.max_delay - least)",
    ),
    Mutant(
        "the pause between probes begins at their end",
        "workers.py",
        "            pool.probe_at = now + pool.policy.restart.max_delay",
        "            pool.probe_at = now + 2 * pool.policy.restart.max_delay",
    ),
    Mutant(
        "a failed import counts for one slot",
        "zygotes.py",
        "for slot in pool.open_slots:\n            if",
        "for slot in pool.open_slots[:1]:\n            if",
    ),
    Mutant("a failed import counts for nobody", "zygotes.py", "if not zygote.proved:", "if False:"),
    Mutant("a proved zygote's end counts for the slots", "zygotes.py", "if not zygote.proved:", "if True:"),
    Mutant(
        "any worker proves the present zygote",
        "zygotes.py",
        "(zygote.ready_at is not None and forked_at >= zygote.ready_at)",
        "True",
    ),
    Mutant("a zygote is rebuilt without back-off", "zygotes.py", "zygote.next_start = moment.now + delay", "pass"),
    Mutant(
        "a dead zygote is rebuilt only when needed",
        "converge.py",
        "return pool.zygote.had and not pool.gave_up",
        "return False",
    ),
    Mutant(
        "a start of a zygote has no deadline",
        "zygotes.py",
        "pool.start_deadline(zygote.generation, moment.now)\n",
        "None\n",
    ),
    Mutant(
        "more than the wanted number is kept",
        "converge.py",
        "reversed(pool.slots[pool.wanted :])",
        "reversed(pool.slots[pool.wanted + 1 :])",
    ),
    Mutant(
        "the oldest slots go first",
        "converge.py",
        "for slot in reversed(pool.slots[pool.wanted :])",
        "for slot in pool.slots[pool.wanted :]",
    ),
    Mutant(
        "of two things overdue one is forgotten",
        "supervisor.py",
        "while (due := self.deadline()) is not None",
        "if (due := self.deadline()) is not None",
    ),
    Mutant("a delay that nobody wakes up for", "converge.py", "times.append(pool.probe_at)", "pass"),
    Mutant("a second stop is a first one", "shutdown.py", "(at_once or self.asked)", "at_once"),
    Mutant(
        "listeners are closed twice",
        "shutdown.py",
        "if not self.closed and self.handing_on is not False:",
        "if not self.closed:",
    ),
    Mutant(
        "the stop does not wait for the listeners",
        "supervisor.py",
        "if absent and self._shutdown.closed:",
        "if absent:",
    ),
    Mutant("the stop does not wait for the zygotes", "supervisor.py", "if absent and", "if"),
    Mutant(
        "the lame duck lasts for ever",
        "shutdown.py",
        "self.phase is Phase.LAME_DUCK and over",
        "self.phase is Phase.LAME_DUCK and self.closed",
    ),
    Mutant(
        "ends are not made good in a lame duck",
        "shutdown.py",
        "(Phase.RUNNING, Phase.LAME_DUCK, Phase.CLOSING)",
        "(Phase.RUNNING, Phase.CLOSING)",
    ),
    Mutant(
        "still ready while it stops", "supervisor.py", "ready = not lacking and not stopping", "ready = not lacking"
    ),
    Mutant(
        "ready with one worker of any pool",
        "supervisor.py",
        "< min(pool.policy.min_ready, pool.wanted)",
        "< min(1, pool.wanted)",
    ),
    Mutant("a late primary blames its workers", "supervisor.py", "        self._workers.postpone(late, least)\n", ""),
    Mutant(
        "a late primary ends a drain at once", "supervisor.py", "        self._shutdown.postpone(late, least)\n", ""
    ),
    Mutant(
        "forgiven only what is past",
        "supervisor.py",
        "late, least = now - due, now + LATE",
        "late, least = now - due, due",
    ),
    Mutant("nobody watches the canary", "reload.py", "watched = candidate.policy.reload.canary", "watched = 0.0"),
    Mutant(
        "a canary that hangs has proved itself",
        "reload.py",
        "candidate.until <= now and is_ready(candidate.canary, workers)",
        "candidate.until <= now",
    ),
    Mutant("one canary stands for all pools", "reload.py", "all(_proved(", "any(_proved("),
    Mutant(
        "promoted with its first worker", "reload.py", "    return all(\n        any(", "    return any(\n        any("
    ),
    Mutant(
        "a reload that is superseded has no verdict",
        "reload.py",
        'self._give_up(Verdict.SUPERSEDED, "another reload was asked for", "", moment)',
        "pass",
    ),
    Mutant(
        "a stop lets a reload go on",
        "reload.py",
        'self._give_up(Verdict.STOPPED, "the service was asked to stop", "", moment)',
        "pass",
    ),
    Mutant("a share of errors has no allowance", "reload.py", "old.share + WORSE", "old.share"),
    Mutant("one response says enough", "reload.py", "candidate.new.responses < ENOUGH", "candidate.new.responses < 1"),
    Mutant(
        "a primary that slept through the canary has watched it",
        "reload.py",
        "pool.candidate.until = max(pool.candidate.until + late, least)",
        "pass",
    ),
    Mutant(
        "a number that an operator chose is lost", "reload.py", "if before.workers != pool.policy.workers:", "if True:"
    ),
    Mutant(
        "new code waits for what the old one has been through",
        "reload.py",
        "            for slot in pool.slots:\n                slot.renew()",
        "            for slot in pool.slots[:0]:\n                slot.renew()",
    ),
    Mutant(
        "a pool that was added stays though its reload failed",
        "reload.py",
        "            if not pool.generation:\n                pool.resize(0)\n        moment",
        "        moment",
    ),
    Mutant(
        "a pool that was taken out stays",
        "reload.py",
        "                if pool.leaving:\n                    pool.resize(0)",
        "                pass",
    ),
    Mutant("all are replaced at once", "converge.py", "    if not hurried(pool, workers):", "    if False:"),
    Mutant(
        "old workers go though none could follow them",
        "converge.py",
        "len(older) - 1 if refillable(pool) else 0",
        "len(older) - 1",
    ),
    Mutant(
        "new code in the old zygote counts as old",
        "converge.py",
        "zygote.preloaded and not zygote.reborn",
        "zygote.preloaded",
    ),
    Mutant(
        "what imports by itself counts as old code",
        "converge.py",
        "zygote.preloaded and not zygote.reborn",
        "not zygote.reborn",
    ),
    Mutant("what only the old ones serve is not waited for", "converge.py", "elif pool.settling:", "elif False:"),
    Mutant(
        "who is replaced goes before its successor is ready",
        "converge.py",
        "if slot.successor is None or (slot.worker is not None and not is_ready(slot.successor, workers)):",
        "if slot.successor is None:",
    ),
    Mutant(
        "who alone is ready goes with its generation",
        "converge.py",
        "if is_ready(slot.worker, workers) or not is_ready(slot.successor, workers):",
        "if True:",
    ),
    Mutant(
        "who is in a held slot stays",
        "converge.py",
        "        if slot.held\n        for worker",
        "        if False\n        for worker",
    ),
    Mutant(
        "a reload waits for held slots",
        "reload.py",
        "        for slot in pool.open_slots\n",
        "        for slot in pool.wanted_slots\n",
    ),
    Mutant(
        "a pool of held slots has no canary to wait for",
        "reload.py",
        "return watched or not pool.open_slots",
        "return watched or not pool.wanted",
    ),
    Mutant("a start releases nothing", "supervisor.py", "self._release(pool, range(pool.wanted), moment)", "pass"),
    Mutant("a hold outlives its slot", "pool.py", "            slot.held = False\n", "            pass\n"),
    Mutant(
        "a pool whose slots are held has given up",
        "restarts.py",
        "if pool.gave_up or not pool.open_slots or",
        "if pool.gave_up or",
    ),
    Mutant(
        "held slots keep a pool from giving up",
        "restarts.py",
        "for slot in pool.open_slots)",
        "for slot in pool.wanted_slots)",
    ),
    Mutant("spares wait for ever", "converge.py", "[_admissions, _successions] if", "[_successions] if"),
    Mutant("spares are of no use in a lame duck", "converge.py", "else [_admissions]", "else []"),
    Mutant("spares of the old code stay", "converge.py", "workers[spare].generation == pool.generation\n", "True\n"),
    Mutant(
        "a spare does not owe the delay of the place it takes",
        "workers.py",
        "pool.spare_start = max(pool.spare_start, slot.next_start)",
        "pass",
    ),
    Mutant("an heir's end is a successor's", "workers.py", "and slot.worker is None and not tried_out:", "and False:"),
    Mutant(
        "stacks that do not come are waited for",
        "workers.py",
        "worker.until = moment.now + STACKS_WITHIN",
        "worker.until = None",
    ),
    Mutant(
        "many that die together start together",
        "restarts.py",
        "slot.next_start = max(now, pool.paced)",
        "slot.next_start = now",
    ),
    Mutant("a successor is tried again at once", "restarts.py", "slot.next_try = now + delay", "slot.next_try = now"),
    Mutant("a primary that slept takes it for silence", "vitals.py", "min(now - last, LISTENED)", "now - last"),
    Mutant("a beat does not end a silence", "vitals.py", "        worker.silent = 0.0", "        pass"),
    Mutant(
        "one without a beat hangs",
        "vitals.py",
        "vital.beat != last.beat or not vital.beat:",
        "vital.beat != last.beat:",
    ),
    Mutant("workers of one age go together", "vitals.py", "(1.0 - YOUNGER * jitter(", "(1.0 - 0 * jitter("),
    Mutant("all serve as many requests", "vitals.py", "(1.0 + policy.jitter * jitter(", "(1.0 + 0 * jitter("),
)


def run(mutant: Mutant) -> tuple[bool, str]:
    """Plant it and run the fast tests: was it caught, and what did they say?"""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        for part in ("clusterd", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "real", "bench"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / "clusterd" / "core" / mutant.file
        text = target.read_text()
        if text.count(mutant.right) != 1:
            raise SystemExit(f"{mutant.name}: stands {text.count(mutant.right)} times in {mutant.file}, not once")
        target.write_text(text.replace(mutant.right, mutant.wrong))
        options = [
            "-x",
            "-q",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "--timeout=600",
        ]  # where it is late, it is no catch
        command = [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "tests/core",
            "tests/model/test_machine.py",
            "tests/model/test_exhaustive.py",
        ]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
        return done.returncode == 1, done.stdout + done.stderr


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survived = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, (caught, output) in zip(chosen, pool.map(run, chosen), strict=True):
            how = next((line for line in output.splitlines() if line.startswith("FAILED")), "")[:120]
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name}  {how}", flush=True)
            if names or not caught:
                print(output[-4000:])
            survived += not caught
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

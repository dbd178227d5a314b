"""A fleet: pods with the real rules in them, a cluster that rolls them out and drains its nodes, and a dependency.

Simulated are the processes, the kubelet and the deployment's controller, as far as starts and readiness depend on
them; the rules of each pod's primary are those that run in production. Time is virtual, seeds are fixed.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from clusterd.config import load, policy
from clusterd.core import commands as c
from clusterd.core import events as e
from clusterd.core.supervisor import Supervisor

IMPORT = 2.0  # seconds that a zygote takes
FORK = 0.01
BOOT = 0.5  # seconds that a worker's start-up takes, in which it asks the dependency
DRAIN = 1.0
SCHEDULE = 2.0  # seconds until the container of a new pod runs
MIN_READY = 5.0  # minReadySeconds of the manifests
CRASH_LOOP = (10.0, 300.0)  # the kubelet's back-off: doubled from the first to the second

CONFIG = """
[listeners.http]
address = "[::]:8000"
[pools.web]
app = "shop:app"
workers = {workers}
min_ready = {workers}
[shutdown]
lame_duck = "5s"
drain_timeout = "20s"
"""


@dataclass
class Pod:
    """One pod: a primary's rules, in a container that the kubelet starts again when it ends."""

    number: int
    release: str
    node: int
    supervisor: Supervisor | None = None
    workers: dict[int, str] = field(default_factory=dict)  # booting, ready, leaving
    ready_since: float | None = None
    going: bool = False
    restarts: int = 0
    life: int = 0
    wake: float | None = None


class Fleet:
    """All of it.

    Args:
        pods: how many are wanted.
        workers: of each.
        nodes: machines that they are on.
        surge: pods above the number while rolling, and how many a drain may take away at a time.
    """

    def __init__(self, pods: int, workers: int, nodes: int, surge: int, seed: int = 1) -> None:
        loaded = load(CONFIG.format(workers=workers), environ={})
        self.policy = policy(loaded.config, cpus=workers)
        self.wanted, self.workers, self.nodes, self.surge = pods, workers, nodes, surge
        self.random = random.Random(seed)
        self.now = 0.0
        self.release = "v1"
        self.reaches = True  # the dependency answers
        self.starts: deque[float] = deque()
        self.pods: dict[int, Pod] = {}
        self.gone_nodes: set[int] = set()
        self.least_ready = 1.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._ready = 0
        for _ in range(pods):
            self._create()

    # -- time --------------------------------------------------------------------------------------------------------

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (self.now + seconds, self._serial, do))

    def run(self, until: float | Callable[[], bool], limit: float = 1e5) -> None:
        """Lets time pass: to a moment, or until something is true (looked at once a second)."""
        end = until if isinstance(until, float) else self.now + limit
        next_look = self.now
        while self._heap and self._heap[0][0] <= end:
            self.now, _, do = heapq.heappop(self._heap)
            do()
            if not isinstance(until, float) and self.now >= next_look:
                if until():
                    return
                next_look = self.now + 1.0
        assert isinstance(until, float), "it never came true"
        self.now = end

    # -- what is measured --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> float:
        """The share of the wanted workers that are ready."""
        return self._ready / (self.wanted * self.workers)

    def most_starts(self, since: float, until: float = float("inf"), window: float = 30.0) -> float:
        """The most starts a second that reached the dependency over any ``window`` seconds between two moments."""
        most, recent = 0, deque[float]()
        for at in self.starts:
            if not since <= at < until:
                continue
            recent.append(at)
            while recent[0] <= at - window:
                recent.popleft()
            most = max(most, len(recent))
        return most / window

    # -- the cluster -------------------------------------------------------------------------------------------------

    def roll(self, release: str) -> None:
        """A new release: at most ``surge`` pods more than wanted, none fewer (the manifests' strategy)."""
        self.release = release
        self._control()

    def drain(self, nodes: int) -> None:
        """So many machines are emptied, as fast as the disruption budget lets: ``surge`` pods may be missing."""
        left = [node for node in range(self.nodes) if node not in self.gone_nodes]
        self.gone_nodes |= set(self.random.sample(left, nodes))
        self._control()

    def settled(self) -> bool:
        """Every pod is of the release, on a machine that stays, and ready."""
        return len(self.pods) == self.wanted and all(
            pod.release == self.release and pod.node not in self.gone_nodes and self._counts(pod)
            for pod in self.pods.values()
        )

    def _counts(self, pod: Pod) -> bool:
        return pod.ready_since is not None and not pod.going and self.now - pod.ready_since >= MIN_READY

    def _control(self) -> None:
        """The deployment's controller and the drains, in one pass."""
        staying = [pod for pod in self.pods.values() if not pod.going]
        available = sum(self._counts(pod) for pod in staying)
        old = [pod for pod in staying if pod.release != self.release]
        missing = self.wanted + (self.surge if old else 0) - len(staying)
        for _ in range(max(0, min(missing, self.wanted - len(staying) + len(old)))):
            self._create()
        # Old ones go as new ones count; pods that do not count go first.
        old.sort(key=self._counts)
        for pod in old:
            counts = self._counts(pod)
            if counts and available <= self.wanted:
                break
            if counts or len(staying) > self.wanted:
                available -= counts
                self._delete(pod)
        evicted = [pod for pod in staying if pod.node in self.gone_nodes and not pod.going]
        for pod in evicted:
            if self._counts(pod) and available <= self.wanted - self.surge:
                break
            available -= self._counts(pod)
            self._delete(pod)

    def _create(self) -> None:
        self._serial += 1
        left = [node for node in range(self.nodes) if node not in self.gone_nodes]
        pod = Pod(self._serial, self.release, self.random.choice(left))
        self.pods[pod.number] = pod
        self.after(SCHEDULE * self.random.uniform(0.5, 1.5), lambda: self._start(pod))

    def _delete(self, pod: Pod) -> None:
        if pod.going:
            return
        pod.going = True
        if pod.supervisor is None:
            del self.pods[pod.number]
            self.after(0.5, self._control)
        else:
            self._feed(pod, pod.life, e.Stop())

    # -- one pod -----------------------------------------------------------------------------------------------------

    def _start(self, pod: Pod) -> None:
        if pod.number in self.pods:
            pod.life += 1
            pod.supervisor = Supervisor(self.policy, f"pod-{pod.number}/{pod.life}")
            self._feed(pod, pod.life, e.Start())

    def _ended(self, pod: Pod, code: int) -> None:
        pod.supervisor, pod.wake = None, None
        pod.ready_since = None
        for worker in list(pod.workers):
            self._leaves(pod, worker)
        pod.workers.clear()
        if pod.going:
            del self.pods[pod.number]
        else:
            least, most = CRASH_LOOP
            self.after(min(least * 2**pod.restarts, most), lambda: self._start(pod))
            pod.restarts += 1
        self._control()

    def _feed(self, pod: Pod, life: int, event: e.Event) -> None:
        supervisor = pod.supervisor
        if supervisor is None or pod.life != life:
            return
        commands, _ = supervisor.handle(event, self.now)
        for command in commands:
            self._do(pod, life, command)
        due = supervisor.deadline() if pod.supervisor is supervisor else None
        if due is not None and (pod.wake is None or due < pod.wake or pod.wake <= self.now):
            pod.wake = due
            self.after(max(0.0, due - self.now), lambda: self._tick(pod, life, due))

    def _tick(self, pod: Pod, life: int, due: float) -> None:
        if pod.wake == due:
            pod.wake = None
            self._feed(pod, life, e.Tick())

    def _do(self, pod: Pod, life: int, command: c.Command) -> None:
        def soon(seconds: float, event: e.Event) -> None:
            self.after(seconds * self.random.uniform(0.8, 1.2), lambda: self._feed(pod, life, event))

        match command:
            case c.StartZygote(pool, generation):
                bad = pod.release == "no import"
                answer = e.ZygoteFailed(pool, generation) if bad else e.ZygoteReady(pool, generation)
                soon(IMPORT, answer)
            case c.StopZygote(pool, generation):
                soon(FORK, e.ZygoteGone(pool, generation))
            case c.Spawn(worker):
                pod.workers[worker] = "booting"
                soon(FORK, e.Spawned(worker))
                self.after(2 * FORK, lambda: self._boot(pod, life, worker))
            case c.Drain(worker):
                self._leaves(pod, worker)
                soon(DRAIN, e.Exited(worker, 0))
            case c.Kill(worker):
                self._leaves(pod, worker)
                soon(FORK, e.Exited(worker, None, 9))
            case c.CloseListeners():
                soon(FORK, e.ListenersClosed())
            case c.Admit():
                pass  # it is handed its share from now on: nobody answers
            case c.Exit(code):
                self._ended(pod, code)
            case _:
                raise AssertionError(f"this world does not know {command}")

    def _boot(self, pod: Pod, life: int, worker: int) -> None:
        """A start reaches the dependency, and fails where that does not answer, or where the release is bad."""
        if pod.supervisor is None or pod.life != life:
            return
        self.starts.append(self.now)
        self.after(BOOT * self.random.uniform(0.8, 1.2), lambda: self._booted(pod, life, worker))

    def _booted(self, pod: Pod, life: int, worker: int) -> None:
        if pod.supervisor is None or pod.life != life or pod.workers.get(worker) != "booting":
            return
        if not self.reaches or pod.release == "no start":
            del pod.workers[worker]
            self._feed(pod, life, e.Exited(worker, 3))
            return
        pod.workers[worker] = "ready"
        self._ready += 1
        if pod.ready_since is None and sum(state == "ready" for state in pod.workers.values()) >= self.workers:
            pod.ready_since = self.now
            self.after(MIN_READY * 1.01, self._control)
        self._feed(pod, life, e.Ready(worker))

    def _leaves(self, pod: Pod, worker: int) -> None:
        """A ready worker is none any more."""
        if pod.workers.get(worker) == "ready":
            self._ready -= 1
            self.least_ready = min(self.least_ready, self.ready)
            pod.ready_since = None
        pod.workers[worker] = "leaving"

    def crash(self) -> None:
        """Everybody who serves dies of the dependency's absence, within a second."""
        for pod in self.pods.values():
            for worker, state in list(pod.workers.items()):
                if state == "ready":
                    self._leaves(pod, worker)
                    self.after(self.random.random(), lambda p=pod, w=worker: self._feed(p, p.life, e.Exited(w, 1)))

"""What an engine is told: its options, and the mailboxes it takes connections from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How connections are served; the keys of ``[pools.NAME.http]``, and ``linger`` of ``[shutdown]``.

    Attributes:
        keep_alive: seconds that an idle connection is kept for a further request.
        forwarded_allow_ips: proxies whose ``X-Forwarded-*`` headers are believed; ``*`` is everyone, nothing is nobody.
        root_path: the prefix of the app's URLs that a proxy has taken away (ASGI ``root_path``).
        max_concurrency: connections, and requests, that are served at once before 503 is answered; 0 is unbounded.
        access_log: each request is logged to standard output.
        linger: seconds that idle kept-alive connections get to close by themselves when the worker drains.
    """

    keep_alive: float = 5.0
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1",)
    root_path: str = ""
    max_concurrency: int = 0
    access_log: bool = False
    linger: float = 2.0


@dataclass(frozen=True, slots=True)
class Inboxed:
    """One mailbox of this worker.

    Attributes:
        name: of the listener whose connections come through it.
        fd: its reading end, the engine's from now on.
        sockname: host and port of the listener as the primary bound it; port -1 says that host is a path.
    """

    name: str
    fd: int
    sockname: tuple[str, int]

"""What an engine is told: its options, and where and how its connections come in."""

import ssl
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
        slow_request: seconds after which it is told where a request is; 0 is never.
        linger: seconds that idle kept-alive connections get to close by themselves when the worker drains.
    """

    keep_alive: float = 5.0
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1",)
    root_path: str = ""
    max_concurrency: int = 0
    access_log: bool = False
    slow_request: float = 0.0
    linger: float = 2.0


@dataclass(frozen=True, slots=True)
class Door:
    """How the connections of one listener come in.

    Attributes:
        listener: its name.
        shared: workers accept them from the listening socket, which they share (``scheduling = "none"``).
        proxy: each begins with a header of the PROXY protocol.
        tls: the server's side of TLS, which comes after that; ``None``: they are in the clear.
        certificate: the server's own, PEM, for the app to look at.
    """

    listener: str = ""
    shared: bool = False
    proxy: bool = False
    tls: ssl.SSLContext | None = None
    certificate: str | None = None

    @property
    def plain(self) -> bool:
        """The connection's first byte is the engine's."""
        return not self.proxy and self.tls is None


PLAIN = Door()


@dataclass(frozen=True, slots=True)
class Inboxed:
    """One source of this worker's connections.

    Attributes:
        name: of the listener whose connections come through it.
        fd: a mailbox's reading end, or the listening socket where the door is shared; the engine's from now on.
        sockname: host and port of the listener as the primary bound it; port -1 says that host is a path.
    """

    name: str
    fd: int
    sockname: tuple[str, int]
    door: Door = PLAIN

"""Talks to a running primary over its control socket; what the command line and other programs use."""

import json
import os
import socket
import stat
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NoReturn

from clusterd.errors import HostError, NotRunning, PeerError, Refused, RequestFailed, TimedOut, UsageError

CONTROL_SOCKET = "control.sock"
"""The control socket's name in the run directory."""

SYSTEM_DIR = "/run/clusterd"
FALLBACK_DIR = f"/tmp/clusterd-{os.getuid()}"
"""Where services have their run directories, apart from ``$XDG_RUNTIME_DIR/clusterd``."""

MAX_RESPONSE = 64 * 1024 * 1024
"""Bytes of a response; a primary has no reason to send more."""

CHECKS = {"live": "/livez", "ready": "/readyz", "startup": "/startupz"}


class Client:
    """One primary. Every call opens a connection of its own.

    Args:
        socket_path: the control socket.
        timeout: seconds that each answer may take.
    """

    def __init__(self, socket_path: str | os.PathLike[str], timeout: float = 5.0) -> None:
        self.socket_path = os.fspath(socket_path)
        self.timeout = timeout

    def status(self) -> dict[str, Any]:
        """The status document (README, "Status").

        Raises:
            NotRunning: nobody listens on the socket.
            Refused: not for this user.
            TimedOut: no answer in time.
            PeerError: what answers there is no primary.
            RequestFailed: the primary could not do it.
        """
        return self._status()[1]

    def status_json(self) -> bytes:
        """The status document as the primary sent it. Raises as :meth:`status`."""
        return self._status()[0]

    def health(self, check: str = "ready", *, verbose: bool = False) -> tuple[bool, str]:
        """Whether a check passes, and its lines.

        Args:
            check: ``live``, ``ready`` or ``startup``.
            verbose: a line for each slot too.

        Raises:
            NotRunning, Refused, TimedOut, PeerError, RequestFailed: as :meth:`status`.
        """
        status, body = self._get(CHECKS[check] + ("?verbose" if verbose else ""))
        if status not in (200, 503) or not body.startswith((b"ok ", b"FAIL ")):
            self._fail(status, body)  # 503 is also what one too many connection gets
        return status == 200, body.decode("utf-8", "replace")

    def _status(self) -> tuple[bytes, dict[str, Any]]:
        status, body = self._get("/v1/status")
        if status != 200:
            self._fail(status, body)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise PeerError(f"{self.socket_path}: what answers there is no clusterd primary")
        return body, document

    def _get(self, target: str) -> tuple[int, bytes]:
        connection = _UnixConnection(self.socket_path, self.timeout)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            body = response.read(MAX_RESPONSE + 1)
        except (TimeoutError, BlockingIOError):  # the second: its queue of connections is full, for it accepts none
            raise TimedOut(
                f"{self.socket_path}: the primary did not answer within {self.timeout:g} s; it may be starved of CPU"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(f"no clusterd is running at {self.socket_path}") from None
        except PermissionError:
            raise Refused(
                f"{self.socket_path}: permission denied; ask as root or as the user the service runs as"
            ) from None
        except HTTPException:
            raise PeerError(f"{self.socket_path}: what answers there is no clusterd primary") from None
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise NotRunning(f"{self.socket_path}: the primary ended while it was asked") from None
            raise HostError(f"{self.socket_path}: {error.strerror or error}") from None
        finally:
            connection.close()
        if len(body) > MAX_RESPONSE:
            raise PeerError(f"{self.socket_path}: the answer is longer than {MAX_RESPONSE} bytes")
        return response.status, body

    def _fail(self, status: int, body: bytes) -> NoReturn:
        said = body.decode("utf-8", "replace").strip()[:500]
        if status == 403:
            raise Refused(f"{self.socket_path}: {said}")
        if status == 404:
            raise RequestFailed(f"{self.socket_path}: this clusterd cannot do that, its version is another: {said}")
        raise RequestFailed(f"{self.socket_path}: the primary answered {status}: {said}")


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def run_dir_candidates(environ: Mapping[str, str], name: str = "*") -> list[Path]:
    """The run directories that a service of this name may have, most likely first; ``*`` is any name."""
    parents = [SYSTEM_DIR, FALLBACK_DIR]
    if os.path.isabs(environ.get("XDG_RUNTIME_DIR", "")):
        parents.insert(0, os.path.join(environ["XDG_RUNTIME_DIR"], "clusterd"))
    found: list[Path] = []
    for parent in map(Path, parents):
        if name != "*":
            found.append(parent / name)
            continue
        try:
            found += sorted(parent.iterdir())
        except OSError:  # it does not exist, or is not ours to read
            continue
    return found


def is_running(socket_path: Path) -> bool:
    """Whether a socket is there that this user may trust and somebody listens on it.

    ``/tmp/clusterd-UID`` can be made by anybody before we do, so what is neither ours nor root's does not count.
    """
    try:
        found = socket_path.stat()
        if not stat.S_ISSOCK(found.st_mode) or (os.getuid() != 0 and found.st_uid not in (0, os.getuid())):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(socket_path))
    except PermissionError:
        return True  # it is there, and whoever asks is to be told that it is not for them
    except OSError:
        return False
    return True


def find_socket(
    *, run_dir: str | None = None, name: str | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """The control socket of the service that is meant.

    Args:
        run_dir: its run directory.
        name: its name.
        environ: default: the process's.

    Raises:
        NotRunning: none is running, or not that one.
        UsageError: several are running and none was named; the message lists them.
    """
    environ = os.environ if environ is None else environ
    if run_dir is not None:
        return os.path.join(run_dir, CONTROL_SOCKET)
    if name is not None:
        if not name or "/" in name or name in (".", ".."):
            raise UsageError(f"--name {name!r} is no name of a service; a directory is given with --run-dir")
        places = [place / CONTROL_SOCKET for place in run_dir_candidates(environ, name)]
        for place in places:
            if is_running(place):
                return str(place)
        looked = ", ".join(str(place.parent) for place in places)
        raise NotRunning(f"no clusterd named {name} is running; looked in {looked}")
    running = [place for one in run_dir_candidates(environ) if is_running(place := one / CONTROL_SOCKET)]
    if not running:
        raise NotRunning("no clusterd is running that this user can see; name it with --run-dir, --name or --config")
    if len(running) > 1:
        listed = "\n".join(f"  --run-dir {place.parent}" for place in running)
        raise UsageError(f"several are running; say which:\n{listed}")
    return str(running[0])

"""Where running services are to be found: their run directories, and the control sockets in them."""

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from clusterd.errors import NotRunning, UsageError

CONTROL_SOCKET = "control.sock"
"""The control socket's name in the run directory."""

SYSTEM_DIR = "/run/clusterd"
FALLBACK_DIR = f"/tmp/clusterd-{os.getuid()}"
"""Where services have their run directories, apart from ``$XDG_RUNTIME_DIR/clusterd``."""


def run_dir_candidates(environ: Mapping[str, str], name: str = "*") -> list[Path]:
    """The run directories that a service of this name may have, most likely first; ``*`` is any name."""
    parents = [SYSTEM_DIR, FALLBACK_DIR]
    if os.path.isabs(environ.get("XDG_RUNTIME_DIR", "")):
        parents.insert(0, os.path.join(environ["XDG_RUNTIME_DIR"], "clusterd"))
    found: list[Path] = []
    for parent in dict.fromkeys(map(Path, parents)):  # in a container both may be /run
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

    ``/tmp/clusterd-UID`` can be made by anybody before we do, so what is neither ours nor root's does not count; but
    below a directory that only root may write to, as ``/run/clusterd``, root has said whose service it is.
    """
    try:
        found = socket_path.stat()
        if not stat.S_ISSOCK(found.st_mode):
            return False
        if os.getuid() != 0 and found.st_uid not in (0, os.getuid()):
            above = socket_path.parent.parent.stat()
            if above.st_uid != 0 or above.st_mode & 0o022:
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

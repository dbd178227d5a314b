"""The files of TLS, read by the primary with its own rights: the key is as a rule not for the pools' users to read."""

import os
import stat
from collections.abc import Mapping

from ..config.schema import Listener, Tls
from ..errors import HostError
from ..wire.tls import MAX_FILE, Material


def read_all(listeners: Mapping[str, Listener]) -> dict[str, Material]:
    """What the files of each listener with TLS hold now.

    Raises:
        HostError: one of them cannot be read: which, and why.
    """
    return {name: _read(name, one.tls) for name, one in listeners.items() if one.tls.cert}


def _read(listener: str, tls: Tls) -> Material:
    names = {key: path for key, path in (("cert", tls.cert), ("key", tls.key), ("client_ca", tls.client_ca)) if path}
    found = {key: _file(f"listener {listener}: tls.{key} {path}", path) for key, path in names.items()}
    return Material(found["cert"], found["key"], found.get("client_ca", b""), names)


def _file(what: str, path: str) -> bytes:
    try:
        # Non-blocking: a named pipe in its place would hold up the primary until somebody writes.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise HostError(f"{what}: this is no file")
            if found.st_size > MAX_FILE:
                raise HostError(f"{what}: {found.st_size} bytes are too many; at most {MAX_FILE} are read")
            data = os.pread(fd, MAX_FILE, 0)
        finally:
            os.close(fd)
    except OSError as error:
        whose = "" if not isinstance(error, PermissionError) else f" for uid {os.geteuid()}, who reads it"
        raise HostError(f"{what}: {error.strerror}{whose}") from None
    if not data:
        raise HostError(f"{what}: it is empty")
    return data

"""A listener's certificate, key and authorities on their way from the primary, which may read the files, to a zygote.

The zygote runs as the pool's user, who as a rule may not read a private key. They travel in a memfd beside the ``Load``
request, which has no room for a bundle of authorities.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_FILE: Final = 1024 * 1024
"""Bytes that one of the files may have. All the authorities that a browser trusts are a quarter of it."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the files of one listener held when they were read.

    Attributes:
        cert: the certificate chain, PEM.
        key: its private key, PEM.
        client_ca: the authorities that clients' certificates must come from, PEM; empty: clients need none.
        names: the files' names by key, for sentences about them.
    """

    cert: bytes
    key: bytes
    client_ca: bytes
    names: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Material({dict(self.names)!r})"  # a key is not to get into a log by way of a traceback


def pack(materials: Mapping[str, Material]) -> bytes:
    """What the memfd holds, by listener."""
    return json.dumps(
        {
            name: {
                "cert": one.cert.decode("latin-1"),
                "key": one.key.decode("latin-1"),
                "client_ca": one.client_ca.decode("latin-1"),
                "names": dict(one.names),
            }
            for name, one in materials.items()
        }
    ).encode()


def unpack(data: bytes) -> dict[str, Material]:
    """Reads what :func:`pack` wrote, in the zygote, which trusts the primary."""
    return {
        name: Material(
            one["cert"].encode("latin-1"),
            one["key"].encode("latin-1"),
            one["client_ca"].encode("latin-1"),
            one["names"],
        )
        for name, one in json.loads(data).items()
    }

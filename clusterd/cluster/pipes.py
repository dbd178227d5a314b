"""Our end of a worker's ``pipe``: a stream both ways, usable before the loop runs."""

import asyncio
import socket
from collections.abc import AsyncIterator


class Pipe:
    """One of a worker's descriptors, from the other side. Reading is by coroutines, writing is at once.

    Args:
        loop: the primary's.
        sock: our end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._reader = asyncio.StreamReader(loop=loop)
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._closing = False
        self._sock = sock
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        self._opening = loop.create_task(self._open(loop, sock, protocol))

    async def _open(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.StreamReaderProtocol
    ) -> None:
        self._transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        for data in self._unsent:
            self._transport.write(data)
        if self._closing:
            self._transport.close()

    async def read(self, n: int = -1) -> bytes:
        """As ``StreamReader.read``."""
        return await self._reader.read(n)

    async def readline(self) -> bytes:
        """As ``StreamReader.readline``."""
        return await self._reader.readline()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Its lines."""
        while line := await self._reader.readline():
            yield line

    def write(self, data: bytes) -> None:
        """Send; what the worker does not take waits here."""
        if self._transport is None:
            self._unsent.append(data)
        else:
            self._transport.write(data)

    def end(self) -> None:
        """No more is sent: the worker reads an end of file."""
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close our end, after what is to be sent still."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

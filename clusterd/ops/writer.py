"""The one thread that writes log records, and the bounded queue before it."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

Record = dict[str, Any]

MAX_RECORDS = 10_000
"""Records that may wait; what comes on top is dropped and counted."""

MAX_BYTES = 8 * 1024 * 1024
"""Bytes, by :func:`weight`, that may wait: 10,000 tracebacks would be a gigabyte."""

BATCH = 32
"""Records rendered for one write: as many as the thread may render in about a millisecond with the GIL in its hand."""


def weight(value: object) -> int:
    """About how much memory a field's value holds on to, in bytes. Exact sizes would cost more than they are worth."""
    if isinstance(value, str):
        return len(value) + 48
    if isinstance(value, Mapping):
        return sum(weight(item) for item in value.values()) + 64
    if isinstance(value, list | tuple):
        return sum(map(weight, value)) + 64
    return 32


class Writer:
    """Writes rendered records to a descriptor from a thread of its own.

    :meth:`put` never blocks, whatever becomes of the descriptor: a full pipe that nobody reads holds up the thread
    alone. The loop itself must not write: seen to stand still in ``pipe_write`` after 208 lines.

    Args:
        fd: where to; it is not closed, and may be blocking or not. ``O_NONBLOCK`` is left alone, because the open file
            description is shared with whoever started us.
        render: a record to its text, without the newline at the end. Runs in the thread.
        lost: called with the number of dropped records when there is room again; returns the record that tells of it,
            which is written where the gap is.
    """

    def __init__(
        self,
        fd: int,
        render: Callable[[Record], str],
        lost: Callable[[int], Record],
        *,
        max_records: int = MAX_RECORDS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._fd = fd
        self._render = render
        self._lost = lost
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: deque[tuple[Record, int]] = deque()
        self._bytes = 0
        self._shut = [False, False]
        self._dropped = 0
        self._broken = False
        self._closing = False
        self._until: float | None = None
        self._changed = threading.Condition()
        self.dropped_total = 0
        # A daemon: blocked in a write for good, it must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="clusterd-log", daemon=True)
        self._thread.start()

    def put(self, record: Record, *, bulk: bool = False) -> bool:
        """Queue a record; false if there was no room and it was counted as dropped instead. From any thread.

        Args:
            bulk: output of workers: it gets three quarters of the room, so that a worker that prints without end
                cannot push out what the service has to say of it.
        """
        size = weight(record)
        with self._changed:
            if self._closing or not self._room(size, bulk):
                self._dropped += 1
                self.dropped_total += 1
                return False
            if self._dropped:
                self._append(self._lost(self._dropped))
                self._dropped = 0
            self._append(record, size)
            self._changed.notify()
            return True

    def flush(self, timeout: float = 1.0) -> bool:
        """Wait until what is queued is written, for at most ``timeout`` seconds; whether it was."""
        end = monotonic() + timeout
        with self._changed:
            while (self._queue or self._bytes) and not self._broken:
                if (left := end - monotonic()) <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout: float = 2.0) -> bool:
        """Write what is queued, for at most ``timeout`` seconds; true if all of it was written. Idempotent."""
        with self._changed:
            self._closing = True
            if self._until is None:
                self._until = monotonic() + timeout
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._queue and not self._broken

    def _room(self, size: int, bulk: bool) -> bool:
        """Once full, the queue counts as full until half of it is gone: else every other record would tell of a gap."""
        share = 0.75 if bulk else 1.0
        if self._shut[bulk]:
            share /= 2
        fits = len(self._queue) < self._max_records * share and self._bytes + size <= self._max_bytes * share
        self._shut[bulk] = not fits
        return fits

    def _append(self, record: Record, size: int | None = None) -> None:
        size = weight(record) if size is None else size
        self._queue.append((record, size))
        self._bytes += size

    def _idle(self) -> bool:
        return not self._queue and not self._closing and (not self._dropped or self._broken)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._idle():
                    self._changed.wait()
                if not self._queue and self._dropped:
                    self._append(self._lost(self._dropped))
                    self._dropped = 0
                if not self._queue:
                    return
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            data = "".join([self._text(record) for record, _ in batch]).encode("utf-8", "backslashreplace")
            written = self._write(data)
            with self._changed:
                self._bytes -= sum(size for _, size in batch)
                self._broken = not written
                self._changed.notify_all()
                if not written:
                    self._dropped += len(batch)
                    self.dropped_total += len(batch)
                    if self._closing:
                        return

    def _text(self, record: Record) -> str:
        try:
            return self._render(record) + "\n"
        except Exception as error:  # one record that cannot be rendered must not end all logging
            return f"{record.get('event')}: this record cannot be rendered: {error!r:.200}\n"

    def _write(self, data: bytes) -> bool:
        """False when it could not be written: the reader is gone, the disk full, or the time for closing over."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                if self._until is not None and monotonic() > self._until:
                    return False
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(100)
            except OSError:
                return False
        return True

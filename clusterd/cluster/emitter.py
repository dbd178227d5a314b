"""Events in Node's manner: pyee's emitter, with ``off``, and with listeners that cannot harm each other."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

from pyee.base import EventEmitter

logger = logging.getLogger("clusterd")


class Emitter(EventEmitter):
    """An emitter whose listeners may be functions or coroutine functions.

    What a listener raises goes to the event loop's exception handler, and the other listeners are called all the same;
    ``SystemExit`` and ``KeyboardInterrupt`` end the program. An ``error`` that nobody listens to is logged, where
    Node's ends the process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: set[asyncio.Task[Any]] = set()

    def off(self, event: str, listener: Callable[..., Any]) -> None:
        """Remove a listener; harmless if it is none."""
        if listener in self.listeners(event):
            self.remove_listener(event, listener)

    def emit(self, event: str, *arguments: Any, **named: Any) -> bool:
        """Call the listeners of an event with these arguments; whether there are any."""
        listeners = self._events.get(event)
        if not listeners:
            self._emit_handle_potential_error(event, arguments[0] if arguments else None)
            return False
        for listener in tuple(listeners.values()):  # as pyee has it, without the lock: one loop, one thread
            try:
                result = listener(*arguments, **named)
            except Exception as error:
                _report(listener, error)
                continue
            if isinstance(result, CoroutineType):
                self._run(listener, result)
        return True

    def _run(self, f: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(f, done))

    def _ended(self, f: Callable[..., Any], task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _report(f, error)

    def _emit_handle_potential_error(self, event: str, error: Any) -> None:
        if event == "error":
            logger.error("an error that nobody listens to: %s", error)


def _report(f: Callable[..., Any], error: BaseException) -> None:
    context = {"message": f"a listener failed: {getattr(f, '__qualname__', f)}", "exception": error}
    try:
        asyncio.get_running_loop().call_exception_handler(context)
    except RuntimeError:
        logger.error(context["message"], exc_info=error)

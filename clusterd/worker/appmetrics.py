"""The app's ``prometheus_client``, made ready without importing it: when the app does, its values are ours.

What has no value of its own, but is computed when asked (info, enum, a gauge's function, a custom collector), is
collected when the primary asks, on a thread of its own.
"""

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final

import msgspec

from ..wire import reports
from ..wire.series import Book
from . import values
from .link import Link

VALUES: Final = "prometheus_client.values"
METRICS: Final = "prometheus_client.metrics"
DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"

MAX_COLLECTED: Final = 256 * 1024
"""Bytes of JSON in which what is collected must fit; families beyond it are left out."""

OWN: Final = (
    "prometheus_client.process_collector",
    "prometheus_client.platform_collector",
    "prometheus_client.gc_collector",
)
"""Modules of the collectors that every process has: the page shows the primary's."""


class _Loader(importlib.abc.Loader):
    """Loads as the given loader does, and then lets somebody touch the module."""

    def __init__(self, loader: importlib.abc.Loader, touch: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._touch = touch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._touch(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the two modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        touch = _TOUCHES.get(fullname)
        if touch is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, touch)
        return spec


def _touch_values(module: ModuleType) -> None:
    if hasattr(module, "ValueClass"):
        module.ValueClass = values.Value  # type: ignore[attr-defined]


def _touch_metrics(module: ModuleType) -> None:
    """A gauge that a function gives has no value that counts."""
    gauge = getattr(module, "Gauge", None)
    if gauge is None or not hasattr(gauge, "set_function"):
        return
    original = gauge.set_function

    def set_function(self: Any, f: Callable[[], float]) -> None:
        original(self, f)
        if isinstance(getattr(self, "_value", None), values.Value):
            self._value.withdraw()
        _changed.set()

    gauge.set_function = set_function


_TOUCHES: Final = {VALUES: _touch_values, METRICS: _touch_metrics}
_changed = threading.Event()


def install() -> str:
    """In the zygote, before the app is imported; returns a sentence if the app's metrics are left to themselves."""
    if DIRECTORY in os.environ or DIRECTORY.lower() in os.environ:
        return (
            f"{DIRECTORY} is set, so the app's metrics go to that directory and are not on the page of metrics;"
            " unset it, and they are there, aggregated"
        )
    for name, touch in _TOUCHES.items():
        if name in sys.modules:
            touch(sys.modules[name])
    sys.meta_path.insert(0, _Finder())
    return ""


class Collecting:
    """What must be asked for in this worker.

    Args:
        book: where it is said whether there is anything.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._seen = -1
        self._busy = False

    def look(self) -> None:
        """Once a second: has the registry got collectors that must be asked?"""
        values.tidy()
        registry = _registry()
        if registry is None:
            return
        count = len(registry._collector_to_names)
        if count != self._seen or _changed.is_set():
            self._seen = count
            _changed.clear()
            self._book.collects(any(True for _ in _collectors(registry)))

    def connect(self, loop: asyncio.AbstractEventLoop, control: Link) -> None:
        """Answer the primary when it asks."""

        def tell(round_: int, families: list[Any]) -> None:
            try:
                loop.call_soon_threadsafe(control.tell, reports.collected(round_, families))
            except RuntimeError:
                return  # the loop is closed: the worker ends

        control.on_collect(lambda round_: self.collect(lambda families: tell(round_, families)))

    def collect(self, answer: Callable[[list[Any]], None]) -> None:
        """Collect on a thread; ``answer`` is called there. While one is at it, no second is begun: nobody answers."""
        if self._busy:
            return
        self._busy = True

        def run() -> None:
            try:
                answer(collected())
            finally:
                self._busy = False

        threading.Thread(target=run, name="clusterd-metrics", daemon=True).start()


def collected() -> list[Any]:
    """All that must be asked for: ``[name, type, help, mode, [[sample's name, labels, value], …]]`` each."""
    registry = _registry()
    families: list[Any] = []
    left = MAX_COLLECTED
    for collector in _collectors(registry) if registry is not None else ():
        mode = getattr(collector, "_multiprocess_mode", "all")
        try:
            found = _computed_by(collector)
        except Exception as error:  # the app's own code; the others are not to suffer for it
            values.logger.warning("a collector of metrics failed: %r", error)
            continue
        for metric in found:
            told = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            samples = [[sample.name, dict(sample.labels), float(sample.value)] for sample in told]
            family = [metric.name, metric.type, metric.documentation[: values.MAX_TEXT], mode, samples]
            try:
                size = len(msgspec.json.encode(family))
            except UnicodeEncodeError:
                continue
            if size <= left:
                left -= size
                families.append(family)
    return families


def _registry() -> Any:
    """The default registry, if the app has imported the library."""
    return getattr(sys.modules.get("prometheus_client.registry"), "REGISTRY", None)


def _collectors(registry: Any) -> Iterator[Any]:
    """Those of its collectors that have no values in the board."""
    module = sys.modules.get(METRICS)
    metric = getattr(module, "MetricWrapperBase", ())
    computed = tuple(getattr(module, name, ()) for name in ("Info", "Enum"))
    for collector in list(registry._collector_to_names):
        kind = type(collector)
        if kind.__module__ in OWN:
            continue
        if not isinstance(collector, metric) or isinstance(collector, computed) or _by_function(collector):
            yield collector


def _computed_by(collector: Any) -> list[Any]:
    """Its families; of a gauge with functions only the samples that these give, the others have values."""
    children = getattr(collector, "_metrics", None)
    found = list(collector.collect())
    if children is not None and _by_function(collector):
        given = {labels for labels, child in list(children.items()) if "_child_samples" in vars(child)}
        for metric in found:
            metric.samples = [
                sample
                for sample in metric.samples
                if tuple(sample.labels.get(name, "") for name in collector._labelnames) in given
            ]
    return found


def _by_function(collector: Any) -> bool:
    """A gauge, or one of its children, has got a function."""
    children = [collector, *list(getattr(collector, "_metrics", {}).values())]
    return any("_child_samples" in vars(child) for child in children)

"""The rules of the house: who may import whom, and what no file of the package may hold."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clusterd"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "core": ("core",),
    "wire": ("wire", "errors"),
    "unix": ("unix", "errors"),
    "client": ("client", "errors"),
    "config": ("config", "core.policy", "errors"),
    "state": ("state", "wire", "errors"),
    "ops": ("ops", "core.events", "core.facts", "unix.notify", "unix.sockets", "errors"),
    "worker": ("worker", "wire", "unix", "state", "errors"),
    "spawner": ("spawner", "wire", "unix", "errors", "worker.boot", "worker.executed"),
    "primary": ("primary", "core", "wire", "unix", "config", "spawner.client", "errors"),
    "cluster": (
        "cluster",
        "wire",
        "errors",
        "primary",
        *(f"worker.{name}" for name in ("ending", "link", "listening", "loops", "program", "servers", "sharing")),
    ),
    "cli": ("",),
    "__main__": ("cli", "unix.signals"),
    "__init__": ("cluster", "errors"),
}
"""Room to what it may import: a module allows itself and what lies below it; ``""`` allows everything."""

ONLY_INSIDE_FUNCTIONS = {("spawner", "worker.boot"), ("spawner", "worker.executed"), ("cluster", "primary")}
"""Allowed at one moment of a process's life only: in the forked child, and when a program becomes the primary."""

THIRD_PARTIES: dict[str, tuple[str, ...]] = {
    "click": ("cli",),
    "h11": ("ops", "cli"),
    "msgspec": ("wire", "unix", "client", "config", "state", "ops", "worker", "spawner", "primary", "cluster", "cli"),
    "prometheus_client": ("ops", "cli"),
    "psutil": ("ops", "cli", "worker"),
    "pyee": ("cluster",),
    "redis": ("state",),
    "rich": ("ops", "cli"),
    "sdnotify": ("unix",),
    "structlog": ("ops", "cli"),
    "textual": ("ops", "cli"),
    "tomli": ("config",),
    "uvicorn": ("worker",),
    "uvloop": ("worker",),
    "waitress": ("worker",),
}
"""Third party to the rooms that may import it; what is not here is imported nowhere."""

NOT_IN_CORE = {
    "asyncio", "concurrent", "datetime", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "queue",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "subprocess", "tempfile",
    "threading", "time", "uuid",
}  # fmt: skip
"""What a clock, chance, the outside or a second thread would enter the rules by."""


@dataclass(frozen=True, slots=True)
class Import:
    """One module that a file imports, wherever in it the statement stands."""

    file: Path
    line: int
    target: str
    top_level: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def module_of(file: Path) -> str:
    """``clusterd/core/events.py`` is ``core.events``, ``clusterd/core/__init__.py`` is ``core``."""
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports_of(file: Path) -> Iterator[Import]:
    """Every import, also those in functions and under ``TYPE_CHECKING``; ``from a import b`` counts as ``a.b`` where
    that is a module, since it is what is loaded."""
    tree = ast.parse(file.read_text(), str(file))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(function)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            below = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if base.startswith("clusterd") and is_module(name) else base for name in below]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(file, node.lineno, target, top_level=id(node) not in inside)


def _for_types_only(node: ast.AST) -> bool:
    """``if TYPE_CHECKING:``, whose imports are read by type checkers and never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def covers(allowed: str, module: str) -> bool:
    return allowed == "" or module == allowed or module.startswith(allowed + ".")


def broken_rule(found: Import) -> str | None:
    """Why the table forbids this import, or ``None``."""
    room = module_of(found.file).split(".")[0]
    top, _, below = found.target.partition(".")
    if top == "clusterd":
        allowed = next((rule for rule in MAY_IMPORT[room] if covers(rule, below)), None)
        if allowed is None:
            return f"{found}; {room} may import only {', '.join(MAY_IMPORT[room]) or 'nothing of clusterd'}"
        if found.top_level and (room, allowed) in ONLY_INSIDE_FUNCTIONS:
            return f"{found} at its top; {room} may do so only at the moment it needs it, inside a function"
    elif top in sys.stdlib_module_names:
        if room == "core" and top in NOT_IN_CORE:
            return f"{found}; core holds values only"
    elif room not in THIRD_PARTIES.get(top, ()):
        return f"{found}; {top} may be imported by {', '.join(THIRD_PARTIES.get(top, ())) or 'no room'}"
    return None


def test_every_room_is_in_the_table() -> None:
    assert {module_of(file).split(".")[0] for file in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_imports_only_what_its_room_may(file: Path) -> None:
    broken = [why for found in imports_of(file) if (why := broken_rule(found))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_has_one_subject_and_says_it(file: Path) -> None:
    text = file.read_text()
    lines = text.count("\n")
    assert lines <= LONGEST_FILE, f"{file.relative_to(ROOT)} has {lines} lines; a file with two subjects is two files"
    assert ast.get_docstring(ast.parse(text)), f"{file.relative_to(ROOT)} does not say what it is about"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nothing_is_left_open(file: Path) -> None:
    left = re.findall(r".*(?:NotImplementedError|TODO|FIXME|XXX|pragma: no cover).*", file.read_text())
    assert not left, "\n".join(left)


def test_no_test_lets_time_pass_by_sleeping() -> None:
    sleeps = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        if "bench" in file.parts or "apps" in file.parts:
            continue  # a bench keeps a rate, and an app under test is slow on purpose
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
                sleeps.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not sleeps, "wait for an event with a deadline instead: " + ", ".join(sleeps)


@pytest.mark.parametrize(
    ("room", "statement", "allowed"),
    [
        ("core", "import time", False),
        ("core", "from dataclasses import dataclass", True),
        ("core", "from clusterd import errors", False),
        ("ops", "from clusterd.core.facts import View", True),
        ("ops", "from clusterd.core import supervisor", False),
        ("primary", "def f():\n    from clusterd.ops.logs import configure", False),
        ("primary", "import structlog", False),
        ("spawner", "from clusterd.worker.boot import run", False),
        ("spawner", "def child():\n    from clusterd.worker.boot import run", True),
        ("worker", "from uvicorn.protocols.http.h11_impl import H11Protocol", True),
        ("wire", "import uvicorn", False),
        ("cli", "from clusterd.primary import pump", True),
    ],
)
def test_the_walk_sees_what_it_is_to_see(room: str, statement: str, allowed: bool, tmp_path: Path) -> None:
    source = tmp_path / "probe.py"
    source.write_text(statement)
    (found,) = imports_of(source)
    pretended = Import(PACKAGE / room / "probe.py", found.line, found.target, found.top_level)
    assert (broken_rule(pretended) is None) is allowed

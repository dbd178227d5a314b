"""The kinds that the schema's keys have: each with its words, bounds and what people are told was expected."""

from dataclasses import dataclass

from clusterd.config.compound import ListOf, OneOf, TableOf
from clusterd.config.hostkinds import Account, FilePath, Place, Proxy
from clusterd.config.kinds import Integer, Kind, Measure, Octal, Text

UNLIMITED = "unlimited"

# Pools and listeners are label values of metrics, words of the command line (`scale web +1`, where a bare number is a
# worker) and parts of file names; the service's name is the name of its run directory.
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_-]{0,31}"
NAME_EXPECTED = "a name of at most 32 letters, digits, _ and - that begins with a letter"
SERVICE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

_MODULE = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_OBJECT = rf"{_MODULE}:{_MODULE}"


@dataclass(frozen=True)
class Key:
    """What the schema says of one key, next to its type and default.

    Attributes:
        kind: what its value may be.
        doc: one sentence or two on what it does, with its unit.
        shown: what stands for the default in tables where the default depends on other things.
    """

    kind: Kind
    doc: str
    shown: str = ""


DURATION = Measure(
    label="duration",
    units=(("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)),
    examples='"250ms", "30s" or "5m"',
    high=365 * 86400.0,
    integral=False,
)
SIZE = Measure(
    label="size",
    units=(
        ("B", 1),
        ("kB", 10**3),
        ("KB", 10**3),
        ("KiB", 2**10),
        ("MB", 10**6),
        ("MiB", 2**20),
        ("GB", 10**9),
        ("GiB", 2**30),
        ("TB", 10**12),
        ("TiB", 2**40),
    ),
    examples='"512MiB" or "2GB"',
    high=2**53,
    integral=True,
)
TEXT = Text()
FILE = FilePath()
PROGRAM = FilePath(label="program", expected="a program's name or path", program=True)
ACCOUNT = Account()
ACCOUNTS = ListOf(label="list of names", item=Account(empty=False), unique=True)
TEXTS = ListOf(label="list of strings", item=TEXT)
COMMAND = ListOf(label="list of strings", item=Text(expected="a program or an argument"))
ADDRESS = Place()
ADDRESS_OR_OFF = Place(label="address or 0", off=True)
MODE = Octal()
UMASK = Octal(label="umask", example="027")
NETWORKS = ListOf(label="list of addresses, networks or *", item=Proxy())
CPUS = OneOf(
    label='"auto" or list of CPU numbers',
    words=("auto",),
    other=ListOf(label="list of CPU numbers", item=Integer(high=8191), unique=True),
    expected_other="a list of different CPU numbers such as [0, 1]",
)
LISTENERS = ListOf(
    label="list of listener names",
    item=Text(expected="a listener's name", pattern=NAME_PATTERN, empty=False),
    unique=True,
)
ENVIRONMENT = TableOf(
    label="table of strings",
    item=TEXT,
    key=r"[^=\x00]+",
    expected_key="the name of an environment variable (no =, not empty)",
)
WORKERS = OneOf(
    label='"auto" or integer',
    words=("auto",),
    other=Integer(low=1, high=1024),
    expected_other="a whole number from 1 to 1024",
)
LIMIT_COUNT = OneOf(
    label='integer or "unlimited"',
    words=(UNLIMITED,),
    other=Integer(),
    expected_other="a whole number",
)
LIMIT_SIZE = OneOf(
    label='size or "unlimited"',
    words=(UNLIMITED,),
    other=SIZE,
    expected_other=f"a size such as {SIZE.examples}",
)
SERVICE_NAME = Text(
    label="name",
    pattern=SERVICE_PATTERN,
    expected="a name of at most 64 letters, digits, _, . and - that begins with a letter or digit",
    empty=False,
)
MODULE = Text(label="module", pattern=_MODULE, expected='a module such as "shop.jobs"', empty=False)
OBJECT = Text(label="module:object", pattern=_OBJECT, expected='"module:object", such as "shop.hooks:handle"')
APP = Text(
    label="module:app",
    pattern=rf"{_OBJECT}(?:\(\))?",
    expected='"module:app" or "module:factory()", such as "shop.asgi:app" or "shop:create_app()"',
    empty=False,
)
ENGINE = Text(
    label='"auto", "uvicorn" or module:Engine',
    pattern=rf"auto|uvicorn|waitress|{_OBJECT}",
    expected='"auto", "uvicorn", "waitress" or "package.module:Engine"',
    empty=False,
)
READY_WHEN = Text(
    label='"auto", "notify", "listening", "message", "running" or "http:/path"',
    pattern=r"auto|notify|listening|message|running|http:/\S*",
    expected='"auto", "notify", "listening", "message", "running" or "http:/path"',
    empty=False,
)
SIGNAL = Text(
    label="signal name",
    pattern=r"SIG[A-Z0-9+-]{2,12}",
    expected='the name of a signal, such as "SIGTERM"',
    empty=False,
)
URL_PATH = Text(label="URL path", pattern=r"/\S*", expected='a path that begins with /, such as "/shop"')


def words(*choices: str, other: Kind | None = None, expected_other: str = "") -> OneOf:
    """The kind of a key that takes one of some words."""
    label = ", ".join(f'"{word}"' for word in choices)
    return OneOf(
        label=label if other is None else f"{label} or {other.label}",
        words=choices,
        other=other,
        expected_other=expected_other,
    )

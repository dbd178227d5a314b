"""The configuration as frozen structs: every key with its default, written once, and its documentation.

Durations are held in seconds, sizes in bytes; 0 is off, everywhere. Reference tables, ``clusterd explain`` and the
JSON Schema are made from what stands here. A key of a later capability is declared here too; ``later.py`` says which.
"""

from typing import Annotated, Any, Literal

from msgspec import Struct

from clusterd.config import vocabulary as kind
from clusterd.config.address import Address
from clusterd.config.compound import Message
from clusterd.config.hostkinds import FilePath
from clusterd.config.kinds import Boolean, Integer, Ratio
from clusterd.config.vocabulary import Key, words

_BOOLEAN = Boolean(label="boolean")


class Service(Struct, frozen=True, kw_only=True):
    """The service as a whole."""

    name: Annotated[
        str,
        Key(
            kind.SERVICE_NAME,
            "The service's name in logs, process titles and the run directory.",
            shown="from the app: shop for shop.asgi:app",
        ),
    ] = ""
    run_dir: Annotated[
        str,
        Key(
            kind.FILE,
            "The directory of the control socket and other run-time files; created with mode 0700.",
            shown="$RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/clusterd/NAME, else /tmp/clusterd-UID/NAME",
        ),
    ] = ""


class Tls(Struct, frozen=True, kw_only=True):
    """TLS on a listener; the files are read again on reload."""

    cert: Annotated[str, Key(kind.FILE, "The certificate chain, a PEM file.")] = ""
    key: Annotated[str, Key(kind.FILE, "The certificate's private key, a PEM file.")] = ""
    client_ca: Annotated[str, Key(kind.FILE, "The authorities that clients' certificates must come from, PEM.")] = ""


class Listener(Struct, frozen=True, kw_only=True):
    """A named listening socket."""

    address: Annotated[
        Address,
        Key(
            kind.ADDRESS,
            "Where to listen: host:port (port 0 lets the kernel choose; an empty host is every interface, IPv4 and"
            " IPv6), unix:PATH, unix:@NAME (abstract), or fd:N, a socket that this process inherits.",
        ),
    ] = Address(host="127.0.0.1", port=8000)
    backlog: Annotated[
        int,
        Key(
            Integer(low=1, high=65535),
            "Connections that the kernel queues until a worker has room; it also obeys net.core.somaxconn. A"
            " socket that is passed and listens keeps its own.",
        ),
    ] = 2048
    mode: Annotated[int, Key(kind.MODE, "Permission bits of a unix socket's file.")] = 0o660
    user: Annotated[str, Key(kind.ACCOUNT, "Owner of a unix socket's file.", shown="unchanged")] = ""
    group: Annotated[str, Key(kind.ACCOUNT, "Group of a unix socket's file.", shown="unchanged")] = ""
    proxy_protocol: Annotated[
        bool, Key(_BOOLEAN, "Whether each connection begins with a PROXY protocol header (v1 or v2).")
    ] = False
    tls: Tls = Tls()


class Limits(Struct, frozen=True, kw_only=True):
    """Resource limits of a pool's zygote and workers (setrlimit(2))."""

    nofile: Annotated[
        int | Literal["unlimited"], Key(kind.LIMIT_COUNT, "Open descriptors a process; 0 leaves the limit as it is.")
    ] = 0
    memory: Annotated[
        int | Literal["unlimited"],
        Key(kind.LIMIT_SIZE, "Address space a process, in bytes; 0 leaves the limit as it is."),
    ] = 0
    core: Annotated[
        int | Literal["unlimited"] | None,
        Key(kind.LIMIT_SIZE, "Size of a core file, in bytes; 0 is no core file.", shown="unchanged"),
    ] = None


class Http(Struct, frozen=True, kw_only=True):
    """How a pool's HTTP engine behaves."""

    keep_alive: Annotated[
        float, Key(kind.DURATION, "How long an idle connection is kept for a further request; seconds.")
    ] = 5.0
    forwarded_allow_ips: Annotated[
        tuple[str, ...],
        Key(kind.NETWORKS, "The proxies whose X-Forwarded-* headers are believed; * is everyone."),
    ] = ("127.0.0.1",)
    root_path: Annotated[
        str, Key(kind.URL_PATH, "The prefix of the app's URLs that a proxy has taken away (ASGI root_path).")
    ] = ""
    max_concurrency: Annotated[
        int, Key(Integer(), "Requests and connections a worker serves at once before it answers 503; 0 is unbounded.")
    ] = 0
    access_log: Annotated[bool, Key(_BOOLEAN, "Whether each request is logged.")] = False
    slow_request: Annotated[
        float, Key(kind.DURATION, "A request that takes longer is logged with its stack; seconds, 0 is off.")
    ] = 0.0


class Restart(Struct, frozen=True, kw_only=True):
    """When the successor of a worker that ended unasked is started."""

    rapid_exit: Annotated[
        float,
        Key(kind.DURATION, "An end before ready, or sooner than this after it, counts for give_up_after; seconds."),
    ] = 1.0
    initial_delay: Annotated[
        float,
        Key(
            kind.DURATION,
            "Delay before the successor of the first of a row; it doubles from crash to crash, plus 0 to 20 % of"
            " jitter; seconds.",
        ),
    ] = 0.2
    max_delay: Annotated[
        float, Key(kind.DURATION, "What the delay doubles up to; also the pause between two probes; seconds.")
    ] = 30.0
    give_up_after: Annotated[
        int,
        Key(
            Integer(high=10**6),
            "Rapid ends in a row after which a slot gives up; the pool has when all its slots have; 0 is never.",
        ),
    ] = 5
    on_give_up: Annotated[
        Literal["probe", "stop", "exit"],
        Key(
            words("probe", "stop", "exit"),
            "What follows: try one worker of the pool every max_delay, leave the pool stopped, or end the service.",
        ),
    ] = "probe"
    healthy_after: Annotated[
        float,
        Key(kind.DURATION, "Ready for this long, and the slot's row starts again at zero; seconds, 0 is at once."),
    ] = 10.0


class Health(Struct, frozen=True, kw_only=True):
    """What makes a living worker be replaced."""

    heartbeat_timeout: Annotated[
        float,
        Key(
            kind.DURATION,
            "The event loop did not turn for this long: its stacks are dumped, then it is replaced; seconds, 0 is off.",
        ),
    ] = 30.0
    http_path: Annotated[str, Key(kind.URL_PATH, "A path that each worker is asked for; empty is off.")] = ""
    http_interval: Annotated[float, Key(kind.DURATION, "Time between two such requests; seconds.")] = 10.0
    http_timeout: Annotated[float, Key(kind.DURATION, "Time that each may take; seconds.")] = 5.0


class Recycle(Struct, frozen=True, kw_only=True):
    """When a worker that works is replaced: first its successor becomes ready, then it drains."""

    max_requests: Annotated[int, Key(Integer(), "After this many requests; 0 is off.")] = 0
    max_requests_jitter: Annotated[
        float, Key(Ratio(), "Up to this share of max_requests is added, a different one for each worker.")
    ] = 0.1
    max_age: Annotated[float, Key(kind.DURATION, "After this long; seconds, 0 is off.")] = 0.0
    max_memory: Annotated[int, Key(kind.SIZE, "When its proportional memory (PSS) exceeds this; bytes, 0 is off.")] = 0


class Reload(Struct, frozen=True, kw_only=True):
    """How the next generation takes over."""

    surge: Annotated[int, Key(Integer(low=1, high=1024), "Workers above the number while rolling.")] = 1
    canary: Annotated[
        float,
        Key(
            kind.DURATION,
            "The first new worker must stay healthy this long under real load before the rest follows; seconds.",
        ),
    ] = 5.0


class Pool(Struct, frozen=True, kw_only=True):
    """A named set of identical workers. Exactly one of app, script, command and tasks says what they run."""

    app: Annotated[str, Key(kind.APP, 'The ASGI or WSGI application: "module:app", or "module:factory()".')] = ""
    script: Annotated[
        str, Key(kind.FILE, "A Python program that uses clusterd.cluster, or a Node.js program (*.js, *.mjs, *.cjs).")
    ] = ""
    command: Annotated[
        tuple[str, ...], Key(kind.COMMAND, "Any program and its arguments; it is given LISTEN_FDS as by systemd.")
    ] = ()
    tasks: Annotated[str, Key(kind.MODULE, "A module whose functions this pool runs for other pools.")] = ""
    args: Annotated[tuple[str, ...], Key(kind.TEXTS, "Arguments of the script.")] = ()
    interpreter: Annotated[
        str, Key(kind.PROGRAM, "The program that runs the script.", shown="this Python, or node")
    ] = ""
    interface: Annotated[
        Literal["auto", "asgi", "wsgi"], Key(words("auto", "asgi", "wsgi"), "What the app speaks.")
    ] = "auto"
    engine: Annotated[
        str,
        Key(kind.ENGINE, "The server in each worker: auto is uvicorn for ASGI and waitress for WSGI."),
    ] = "auto"
    workers: Annotated[
        int | Literal["auto"],
        Key(kind.WORKERS, "How many; auto is the CPUs of the cgroup quota and affinity. Else $WEB_CONCURRENCY."),
    ] = "auto"
    listeners: Annotated[
        tuple[str, ...],
        Key(
            kind.LISTENERS,
            "The listeners whose connections the pool takes; those of a listener that several pools name go in turn to"
            " all the workers of all of them.",
            shown="all, for app and command pools",
        ),
    ] = ()
    scheduling: Annotated[
        Literal["rr", "least", "kernel", "none"],
        Key(
            words("rr", "least", "kernel", "none"),
            "Who chooses the worker of a connection: the primary in turn, by fewest open, or the kernel with a queue"
            " a worker or one for all.",
        ),
    ] = "rr"
    steal_after: Annotated[
        float,
        Key(kind.DURATION, "Connections a blocked worker has not taken for this long go to others; seconds, 0 is off."),
    ] = 0.02
    preload: Annotated[
        Literal["auto"] | bool,
        Key(
            words("auto", other=_BOOLEAN, expected_other="true or false"),
            "Whether the app is imported once, before forking; auto does so if the import leaves nothing that makes"
            " forking unsafe.",
        ),
    ] = "auto"
    spares: Annotated[
        int, Key(Integer(high=1024), "Workers started and ready, waiting to replace the next that dies.")
    ] = 0
    min_ready: Annotated[int, Key(Integer(high=1024), "The service is ready once this many workers are.")] = 1
    ready_when: Annotated[str, Key(kind.READY_WHEN, "What makes a script's worker ready; an app says it itself.")] = (
        "auto"
    )
    start_timeout: Annotated[
        float, Key(kind.DURATION, "Time from a worker's start to ready, after which it is killed; seconds, 0 is off.")
    ] = 60.0
    stop_signal: Annotated[str, Key(kind.SIGNAL, "What asks a worker of a command pool to end.")] = "SIGTERM"
    stop_message: Annotated[dict[str, Any], Key(Message(), "The message that asks a script to end.", shown="none")] = {}
    env: Annotated[
        dict[str, str], Key(kind.ENVIRONMENT, "Environment variables of the pool, added to the primary's.")
    ] = {}
    cwd: Annotated[str, Key(kind.FILE, "The pool's working directory; first on sys.path.", shown="the primary's")] = ""
    user: Annotated[str, Key(kind.ACCOUNT, "The user that the pool runs as.", shown="the primary's")] = ""
    group: Annotated[str, Key(kind.ACCOUNT, "The group that the pool runs as.", shown="the user's, or unchanged")] = ""
    umask: Annotated[int | None, Key(kind.UMASK, "The pool's file mode creation mask.", shown="unchanged")] = None
    cpu_affinity: Annotated[
        Literal["auto"] | tuple[int, ...],
        Key(kind.CPUS, "The CPUs its workers may run on; auto: one of the service's each, by slot.", shown="unchanged"),
    ] = ()
    on_message: Annotated[
        str,
        Key(kind.OBJECT, 'A function that gets the workers\' messages, in a process of its own: "module:function".'),
    ] = ""
    limits: Limits = Limits()
    http: Http = Http()
    restart: Restart = Restart()
    health: Health = Health()
    recycle: Recycle = Recycle()
    reload: Reload = Reload()


class Shutdown(Struct, frozen=True, kw_only=True):
    """How the service ends: lame duck, then linger, then drain."""

    lame_duck: Annotated[
        float, Key(kind.DURATION, "Not ready any more, but still taking work, for this long; seconds, 0 is none.")
    ] = 0.0
    linger: Annotated[
        float,
        Key(kind.DURATION, "Idle kept-alive connections get this long to close after Connection: close; seconds."),
    ] = 2.0
    drain_timeout: Annotated[
        float, Key(kind.DURATION, "Then this long for what was taken, and then SIGKILL; seconds, 0 is unbounded.")
    ] = 25.0
    grace_period: Annotated[
        float,
        Key(
            kind.DURATION,
            "What the orchestrator gives from its SIGTERM to its SIGKILL; all of the above and a second must fit;"
            " seconds, 0 is unknown.",
            shown="$CLUSTERD_GRACE_PERIOD, else 0",
        ),
    ] = 0.0


class Memory(Struct, frozen=True, kw_only=True):
    """What is done before the container's memory limit is reached."""

    guard: Annotated[
        Literal["auto"] | bool,
        Key(
            words("auto", other=_BOOLEAN, expected_other="true or false"),
            "Whether workers are replaced before the limit ends one; auto does so where there is a limit.",
        ),
    ] = "auto"
    soft: Annotated[float, Key(Ratio(), "At this share of the limit the fattest worker is replaced; 0 is off.")] = 0.85
    hard: Annotated[float, Key(Ratio(), "At this share it is killed; 0 is off.")] = 0.95


class Monitoring(Struct, frozen=True, kw_only=True):
    """The read-only HTTP server of /metrics, /livez, /readyz and /startupz."""

    address: Annotated[Address | None, Key(kind.ADDRESS_OR_OFF, "Where it listens; 0 is off.")] = Address(
        host="127.0.0.1", port=9190
    )


class Accounts(Struct, frozen=True, kw_only=True):
    """Users and groups."""

    users: Annotated[tuple[str, ...], Key(kind.ACCOUNTS, "Users, by name or number.")] = ()
    groups: Annotated[tuple[str, ...], Key(kind.ACCOUNTS, "Groups, by name or number.")] = ()


class Control(Struct, frozen=True, kw_only=True):
    """The control socket, which the command line talks to."""

    socket: Annotated[
        str,
        Key(
            FilePath(label='"auto", path or 0', words=("auto",), off=True),
            "The unix socket's file; auto is control.sock in run_dir; 0 is off.",
        ),
    ] = "auto"
    mode: Annotated[int, Key(kind.MODE, "Permission bits of the socket's file.")] = 0o600
    operators: Accounts = Accounts()
    admins: Accounts = Accounts()
    observer_socket: Annotated[
        str, Key(kind.FILE, "A second socket, on which only reading is possible; empty is none.")
    ] = ""
    observer_mode: Annotated[
        int, Key(kind.MODE, "Permission bits of that socket's file: whoever may connect there may read.")
    ] = 0o660


class Log(Struct, frozen=True, kw_only=True):
    """What the service writes to its standard output."""

    format: Annotated[
        Literal["auto", "json", "console", "logfmt"],
        Key(
            words("auto", "json", "console", "logfmt"),
            "The form of log lines; auto is console on a terminal, else json.",
        ),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Key(words("debug", "info", "warning", "error"), "The least important level that is written."),
    ] = "info"
    worker_output: Annotated[
        Literal["capture", "inherit"],
        Key(words("capture", "inherit"), "Whether workers' output is read line by line and tagged, or left alone."),
    ] = "capture"
    crash_lines: Annotated[
        int, Key(Integer(high=10_000), "Captured lines of each worker that are kept for its crash report.")
    ] = 50
    termination_log: Annotated[
        str,
        Key(
            FilePath(label='"auto", path or 0', words=("auto",), off=True),
            "The file that gets the reason, on one screen, when the service ends with another code than 0; auto is"
            " /dev/termination-log where there is one, as in Kubernetes; 0 is off.",
        ),
    ] = "auto"


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    config_version: Annotated[int, Key(Integer(low=1, high=1), "The version of this schema; there is one so far.")] = 1
    clusterd: Service = Service()
    listeners: dict[str, Listener] = {}
    pools: dict[str, Pool] = {}
    shutdown: Shutdown = Shutdown()
    memory: Memory = Memory()
    monitoring: Monitoring = Monitoring()
    control: Control = Control()
    log: Log = Log()

"""Units of systemd for a service: what each directive is for, and why one that would be tighter is not there."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

RELOAD_PROTOCOL = 253
"""The systemd from which on ``Type=notify-reload`` exists."""

RESTART_RESET = 258
"""The systemd from which on a service can say that it is healthy: only then may delays grow from start to start."""

MOST_DESCRIPTORS = 524_288
"""What systemd lets a process raise its own limit to (``DefaultLimitNOFILE=``)."""

STOP_MARGIN = 5.0
"""Seconds from the end of the longest drain to systemd's own SIGKILL."""

SHORTEST_STOP = 10.0

# What no process of a service needs, whoever it runs as (systemd.exec(5), "Sandboxing").
_SEALED = (
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateMounts=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "UMask=0077",
    "RemoveIPC=yes",
    "KeyringMode=private",
    "NoNewPrivileges=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the units of one service depend on.

    Attributes:
        title: what people call it.
        command: the words that run the primary.
        control: what tells the commands of the command line which service is meant; empty: it has no control socket.
        runtime: its run directory, below ``/run``.
        directory: its working directory; empty is ``/``.
        shutdown: seconds from SIGTERM until its last worker is killed; ``None`` is never.
        descriptors: listening sockets that the manager may have to keep.
        user: who it runs as; empty is a user that exists only while the service does.
        pool_users: pools that run as other users, so that the primary is root.
        roles: the control socket is for other users too.
        affinity: pools whose workers are bound to CPUs.
        compilers: pools whose programs may make machine code while they run.
        hidden: paths in home directories that it has to see.
        nofile: the most descriptors that a pool wants for each worker, or ``inf``; 0: none says.
        credentials: names of credentials that its configuration refers to.
        environment: a file of environment variables, which need not be there.
        ports: privileged ports that the primary binds itself.
        owners: listeners whose files the primary gives to other users.
        sockets: the socket units that pass it its listeners.
        version: of systemd.
    """

    title: str
    command: Sequence[str]
    control: Sequence[str] = ()
    runtime: str
    directory: str = ""
    shutdown: float | None = 27.0
    descriptors: int = 1
    user: str = ""
    pool_users: Sequence[str] = ()
    roles: bool = False
    affinity: Sequence[str] = ()
    compilers: Sequence[str] = ()
    hidden: Sequence[str] = ()
    nofile: float = 0
    credentials: Sequence[str] = ()
    environment: str = ""
    ports: Sequence[int] = ()
    owners: Sequence[str] = ()
    sockets: Sequence[str] = ()
    version: int = 252


def service_unit(fit: Fit) -> str:
    """The text of the service's unit."""
    lines = [
        "[Unit]",
        f"Description={_value(fit.title)}, served by clusterd",
        "Documentation=man:clusterd(1)",
        "After=network.target",
        *_start_limit(fit),
        "",
        "[Service]",
        *_process(fit),
        "",
        *_end(fit),
        "",
        *_restart(fit),
        "",
        *_identity(fit),
        "",
        "# -- what it cannot do ----------------------------------------------------------------------------------",
        *_SEALED,
        *_home(fit),
        *_memory(fit),
        *_calls(fit),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        *([f"Also={' '.join(fit.sockets)}"] if fit.sockets else []),
    ]
    return "\n".join(lines) + "\n"


def socket_unit(
    title: str,
    service: str,
    listener: str,
    stream: str,
    *,
    backlog: int = 2048,
    mode: int | None = None,
    user: str = "",
    group: str = "",
) -> str:
    """The text of a socket unit: systemd listens before the service is there, and while it restarts.

    Args:
        title: what people call the service.
        service: the service's unit.
        listener: the listener's name in the configuration, by which the service knows the socket; empty leaves it
            systemd's name.
        stream: what ``ListenStream=`` says.
        backlog: connections that wait to be accepted.
        mode: permission bits of a unix socket's file; ``None`` for TCP.
        user: owner of a unix socket's file.
        group: its group.
    """
    lines = [
        "[Unit]",
        f"Description={_value(title)}, the socket{f' of listener {listener}' if listener else ''}",
        "",
        "[Socket]",
        f"ListenStream={_value(stream)}",
        *([f"FileDescriptorName={listener}"] if listener else []),
        f"Service={service}",
        f"Backlog={backlog}",
    ]
    if mode is not None:
        lines.append(f"SocketMode={mode:04o}")
        lines += [f"SocketUser={user}"] * bool(user) + [f"SocketGroup={group}"] * bool(group)
    if re.fullmatch(r"\d+", stream):
        lines.append("BindIPv6Only=both")
    return "\n".join([*lines, "", "[Install]", "WantedBy=sockets.target"]) + "\n"


def _start_limit(fit: Fit) -> Iterator[str]:
    if fit.version >= RESTART_RESET:
        yield "# The delay between two starts grows (below); health sets it back, so there is no last try."
        yield "StartLimitIntervalSec=0"
    else:
        yield "# More than this is no accident: the unit fails, and whoever watches units is told."
        yield "StartLimitIntervalSec=1min"
        yield "StartLimitBurst=30"


def _process(fit: Fit) -> Iterator[str]:
    reload = [fit.command[0], "reload", *fit.control]
    yield f"Type={'notify-reload' if fit.version >= RELOAD_PROTOCOL else 'notify'}"
    yield f"ExecStart={_command(fit.command)}"
    if not fit.control:
        yield "# There is no control socket that could be asked how a reload ended: status and log tell."
        if fit.version < RELOAD_PROTOCOL:
            yield "ExecReload=/bin/kill -HUP $MAINPID"
    elif fit.version >= RELOAD_PROTOCOL:
        yield "# A signal asks for the reload, and its protocol has no word for one that was rolled back: this fails."
        yield f"ExecReload={_command([*reload, '--verdict', '--timeout', '24h'])}"
    else:
        yield "# Waits for the verdict, and fails if it was rolled back."
        yield f"ExecReload={_command([*reload, '--timeout', '24h'])}"
    yield "NotifyAccess=main"
    if fit.directory:
        yield f"WorkingDirectory={_value(fit.directory)}"
    yield f"RuntimeDirectory={_value(fit.runtime)}"
    yield f"RuntimeDirectoryMode={'0755' if fit.roles else '0700'}"
    if fit.environment:
        yield f"EnvironmentFile=-{_value(fit.environment)}"
    for name in fit.credentials:
        yield f"LoadCredential={name}:/etc/clusterd/credentials/{name}"
    for name in fit.sockets:
        yield f"Sockets={name}"
    yield "# A primary that is killed finds its listeners here again, and the connections that wait in them."
    yield f"FileDescriptorStoreMax={max(16, 2 * fit.descriptors)}"
    if fit.nofile > MOST_DESCRIPTORS:
        yield "# What a pool's limits ask for is more than systemd grants by itself."
        yield f"LimitNOFILE=1024:{'infinity' if math.isinf(fit.nofile) else int(fit.nofile)}"


def _end(fit: Fit) -> Iterator[str]:
    yield "# systemd signals the primary alone. clusterd ends what it has started, also after its own death: with"
    yield "# `mixed`, a killed primary would take every request in flight with it."
    yield "KillMode=process"
    if fit.shutdown is None:
        yield "TimeoutStopSec=infinity"
    else:
        stop = math.ceil(max(fit.shutdown + STOP_MARGIN, SHORTEST_STOP))
        yield "# Above lame duck, linger and drain of the configuration."
        yield f"TimeoutStopSec={stop}s"
        yield f"Environment=CLUSTERD_GRACE_PERIOD={stop}s"
    yield "# The primary has stopped turning: systemd ends it, and starts it again with the same listeners."
    yield "WatchdogSec=30s"
    yield "TimeoutAbortSec=5s"
    yield "# A worker that runs out of memory is replaced by the primary; the others serve on."
    yield "OOMPolicy=continue"


def _restart(fit: Fit) -> Iterator[str]:
    yield "Restart=on-failure"
    yield "# A bad configuration (78) or command line (2) does not get better by trying again."
    yield "RestartPreventExitStatus=78 2"
    yield "RestartSec=100ms"
    if fit.version >= RESTART_RESET:
        yield "RestartSteps=10"
        yield "RestartMaxDelaySec=30s"


def _identity(fit: Fit) -> Iterator[str]:
    able: dict[str, str] = {}
    if fit.pool_users:
        yield f"# The primary is root, for these pools run as other users: {', '.join(fit.pool_users)}."
        able |= {"CAP_SETUID": "to become them", "CAP_SETGID": "likewise", "CAP_KILL": "to signal their workers"}
    else:
        yield f"User={fit.user}" if fit.user else "DynamicUser=yes"
    if fit.owners:
        able["CAP_CHOWN"] = f"for the files of unix sockets ({', '.join(fit.owners)})"
    if fit.ports:
        able["CAP_NET_BIND_SERVICE"] = f"to listen on {', '.join(map(str, fit.ports))}; a socket unit would not need it"
    for name, purpose in able.items():
        yield f"# {name} {purpose}."
    yield f"CapabilityBoundingSet={' '.join(able)}"
    yield f"AmbientCapabilities={'' if fit.pool_users else ' '.join(able)}"
    if able:
        yield "# PrivateUsers= would take the other users away, and capabilities with them."
    elif fit.roles:
        yield "# PrivateUsers= would hide who asks on the control socket, which is what its roles go by."
    else:
        yield "PrivateUsers=yes"


def _home(fit: Fit) -> Iterator[str]:
    if fit.hidden:
        yield "# These are in home directories; of the rest of those nothing is seen."
        yield "ProtectHome=tmpfs"
        yield f"BindReadOnlyPaths={' '.join(map(_word, fit.hidden))}"
    else:
        yield "ProtectHome=yes"
    yield "# For a directory that the application may write to, /var/lib/NAME: StateDirectory=NAME"


def _memory(fit: Fit) -> Iterator[str]:
    if fit.compilers:
        yield f"# MemoryDenyWriteExecute= would end programs that compile while they run: {', '.join(fit.compilers)}."
    else:
        yield "# An application with a just-in-time compiler in it (numba, PyPy, a V8) has to have this off."
        yield "MemoryDenyWriteExecute=yes"


def _calls(fit: Fit) -> Iterator[str]:
    yield "SystemCallFilter=@system-service"
    if fit.affinity:
        yield f"# @resources is not taken away: sched_setaffinity(2) binds workers to CPUs ({', '.join(fit.affinity)})."
        yield "SystemCallFilter=~@privileged"
    else:
        yield "SystemCallFilter=~@privileged @resources"
    if not fit.affinity and not fit.pool_users:  # as root it gets no more than it cannot do without
        yield "# The primary waits for its turn where a worker runs (SCHED_BATCH); what is real-time stays forbidden."
        yield "SystemCallFilter=sched_setscheduler"
    allowed = ["@setuid"] * bool(fit.pool_users) + ["@chown"] * bool(fit.owners)
    if allowed:
        yield f"SystemCallFilter={' '.join(allowed)}"
    yield "SystemCallErrorNumber=EPERM"


def _command(words: Sequence[str]) -> str:
    return " ".join(_word(word).replace("$", "$$") for word in words)


def _word(text: str) -> str:
    """One word of a line that systemd splits (systemd.syntax(7), "Quoting")."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return _value(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_value(escaped)}"'


def _value(text: str) -> str:
    """A value without specifiers: ``%`` is itself, except in a template's ``%i``."""
    return re.sub(r"%(?!i\b)", "%%", " ".join(text.split("\n")))

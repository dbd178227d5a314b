"""PM2 and clusterd side by side: each command and each key of an ecosystem file, to ours or to the reason why not."""

from typing import NamedTuple


class Same(NamedTuple):
    """One thing of PM2's.

    Attributes:
        theirs: its names.
        ours: what does it here; empty: nothing does.
        why: what is different, or why there is none and what to do instead.
    """

    theirs: tuple[str, ...]
    ours: str
    why: str


COMMANDS: tuple[Same, ...] = (
    Same(("start FILE", "start ecosystem.config.js"), "clusterd run", "in the foreground: systemd, a container or Kubernetes keeps it running and takes its log"),
    Same(("start NAME", "stop NAME"), "clusterd start POOL, clusterd stop POOL", "a stop drains, it does not cut off; also of one worker, POOL/SLOT or its id"),
    Same(("restart",), "clusterd restart [POOL|WORKER]", "rolling: the new one is ready before the old one drains"),
    Same(("reload", "gracefulReload"), "clusterd reload [POOL]", "with a verdict and an exit code: a version that does not get ready or healthy is rolled back"),
    Same(("delete", "kill"), "clusterd shutdown", "a pool is deleted by taking it out of the file and reloading"),
    Same(("scale NAME N",), "clusterd scale POOL N", "also +N and -N"),
    Same(("startOrRestart", "startOrReload"), "clusterd reload", "converges to the file: pools that are new in it are added, pools that are gone from it drain"),
    Same(("list", "ls", "status", "jlist", "prettylist"), "clusterd status, clusterd status --json", "no environment in it, so no secrets"),
    Same(("describe", "show", "info"), "clusterd describe WORKER", ""),
    Same(("monit", "dashboard", "imonit"), "clusterd top", "with actions; also named monit"),
    Same(("logs",), "clusterd logs -f", "by pool and worker, --since, --crash; kept in memory, the files are the service manager's"),
    Same(("flush", "reloadLogs", "logrotate"), "", "clusterd writes no log files: journald, the container's runtime or a pipe rotates"),
    Same(("env ID",), "clusterd explain pools.NAME.env", "what the file says; the whole environment of a process is not shown"),
    Same(("pid", "id"), "clusterd status", ""),
    Same(("reset",), "", "counters are Prometheus counters, and never fall"),
    Same(("save", "dump", "resurrect", "cleardump"), "", "the file is the state: nothing is remembered beside it"),
    Same(("startup", "unstartup"), "clusterd generate systemd", "a unit with Type=notify, the watchdog and hardening, instead of one that forks"),
    Same(("update", "deepUpdate"), "clusterd upgrade", "in place: same pid, same workers, no connection lost"),
    Same(("init", "ecosystem", "create"), "clusterd init", "also --from-pm2 and --from-gunicorn"),
    Same(("ping",), "clusterd health live", ""),
    Same(("report",), "clusterd doctor", ""),
    Same(("sendSignal SIG",), "", "kill(1) with the pid of `clusterd status`; TERM makes a worker drain and be replaced"),
    Same(("trigger ACTION",), "", "an HTTP route of the app, or cluster messages; a supervisor that runs code by name is an open door"),
    Same(("send", "attach"), "", "workers have no standard input: they are many"),
    Same(("inspect", "profile:cpu", "profile:mem"), "clusterd stacks WORKER", "stacks of threads and tasks; for profiles, py-spy with the pid"),
    Same(("deploy", "pull", "forward", "backward"), "", "a deployment is the pipeline's; its last step is `clusterd reload`, whose exit code is the verdict"),
    Same(("serve",), "", "static files are a web server's"),
    Same(("web",), "/metrics, /v1/status", "the monitoring address is read-only and carries no environment; the control socket is a unix socket"),
    Same(("install", "module:*", "set", "get", "unset", "conf"), "", "there are no modules and no second place for settings"),
    Same(("link", "unlink", "plus", "login", "install-otel"), "", "metrics are Prometheus'; tracing is the app's"),
)  # fmt: skip
"""PM2's commands."""

KEYS: tuple[Same, ...] = (
    Same(("name",), "the pool's name", ""),
    Same(("script", "exec", "cmd", "command"), "pools.NAME.script, command", "script for Python and Node, command for other programs"),
    Same(("args",), "pools.NAME.args", ""),
    Same(("interpreter", "exec_interpreter"), "pools.NAME.interpreter", ""),
    Same(("node_args", "interpreter_args"), "pools.NAME.env.NODE_OPTIONS", "Node's; for Python there are environment variables"),
    Same(("cwd",), "pools.NAME.cwd", ""),
    Same(("instances",), "pools.NAME.workers", "max is auto, which follows the cgroup's quota and not the host's CPUs"),
    Same(("exec_mode",), "", "every script may share its ports: cluster and fork are one thing here"),
    Same(("port",), "pools.NAME.env.PORT", ""),
    Same(("env", "env_*"), "pools.NAME.env", "one environment a file; `--env NAME` of init chooses, ${VAR} takes from outside"),
    Same(("filter_env",), "", "the service manager says what the primary's environment is"),
    Same(("instance_var",), "", "the slot is in $CLUSTERD_SLOT"),
    Same(("increment_var",), "", "a counted port a worker is what sharing a port replaces; a number of its own is $CLUSTERD_SLOT"),
    Same(("max_memory_restart",), "pools.NAME.recycle.max_memory", "of proportional memory, and the successor is ready first"),
    Same(("cron_restart", "cron"), "", "a timer of systemd or a CronJob that runs `clusterd reload`; against leaks: pools.NAME.recycle"),
    Same(("watch", "ignore_watch", "watch_options", "watch_delay"), "", "a supervisor for production does not reload on a half-written file; `watchexec -- clusterd reload` does in development"),
    Same(("autorestart",), "", "a worker that ends is replaced; a job that ends is a oneshot unit or a Job"),
    Same(("autostart",), "", "a pool in the file is started; `clusterd stop POOL` stops it"),
    Same(("stop_exit_codes",), "", "an exit code of a worker ends no service: one of many workers cannot know that all are done"),
    Same(("max_restarts",), "pools.NAME.restart.give_up_after", "rapid ends in a row, whenever they come"),
    Same(("min_uptime",), "pools.NAME.restart.rapid_exit", ""),
    Same(("restart_delay",), "pools.NAME.restart.initial_delay", "it doubles from crash to crash, up to max_delay"),
    Same(("exp_backoff_restart_delay",), "pools.NAME.restart.initial_delay", ""),
    Same(("kill_timeout",), "shutdown.drain_timeout", "of the whole service, the longest counts"),
    Same(("kill_retry_time",), "", "the end of a process is told by the kernel, nothing is polled"),
    Same(("treekill",), "", "always: a worker's whole process group ends with it"),
    Same(("shutdown_with_message",), "pools.NAME.stop_message", "a table; the string `shutdown` of PM2 is not sent"),
    Same(("wait_ready",), "pools.NAME.ready_when = \"message\"", "`process.send('ready')`; a worker that never says it is not taken for ready"),
    Same(("listen_timeout",), "pools.NAME.start_timeout", "after it the worker is killed and not taken for ready"),
    Same(("out_file", "error_file", "log_file", "output", "error", "log", "out"), "", "standard output, tagged and structured; files are the service manager's"),
    Same(("merge_logs", "combine_logs", "log_type", "log_date_format", "time", "disable_logs"), "log.format", "one stream of all workers, each line tagged"),
    Same(("pid_file", "pid"), "", "nothing needs it: `clusterd status` has the pids"),
    Same(("uid", "user"), "pools.NAME.user", ""),
    Same(("gid",), "pools.NAME.group", ""),
    Same(("source_map_support",), "pools.NAME.env.NODE_OPTIONS", "--enable-source-maps"),
    Same(("namespace", "name_prefix", "append_env_to_name"), "clusterd.name", "a service is one primary; several services have several"),
    Same(("force",), "", "a name is used once"),
    Same(("post_update", "vizion", "deploy"), "", "a deployment is the pipeline's"),
    Same(("pmx", "automation", "io", "trace", "disable_trace", "v8", "event_loop_inspector", "deep_monitoring"), "", "metrics are Prometheus'; tracing is the app's"),
    Same(("windowsHide", "install_url", "disable_source_map_support"), "", "without a meaning here"),
)  # fmt: skip
"""Keys of an ecosystem file."""


def why_not(key: str) -> str | None:
    """Why a key of an ecosystem file is not carried over; ``None`` if PM2 has no such key."""
    for row in KEYS:
        if key in row.theirs:
            return row.why
    return None

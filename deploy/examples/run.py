"""Starts the demo, on free ports, and says what to try: what ``make run`` runs."""

import os
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

TO_TRY = (
    ("curl {app}/", "which worker answered? each new connection goes to the next"),
    ("curl {app}/crash", "a worker dies; its slot is filled again, 0.2 s later"),
    ("kill -9 $(curl -s {app}/pid)", "the same from outside"),
    ("kill -TTIN {pid}; kill -TTOU {pid}", "one worker more, one fewer"),
    ("{clusterd} status", "what runs; also: top, a live screen; events, logs, describe 1"),
    ("{clusterd} reload", "new workers for old ones, a verdict, and no request lost"),
    ("curl '{monitoring}/readyz?verbose'", "what an orchestrator sees"),
    ("curl '{app}/slow?seconds=5'", "then Ctrl-C here: it is answered before the service ends"),
)


def port(variable: str, usual: int) -> str:
    """The port that the user asked for by ``variable``, else the usual one, else, where that is taken, a free one."""
    if asked := os.environ.get(variable):
        return asked
    for number in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
                probe.listen(1)
            except OSError:
                continue
            found = int(probe.getsockname()[1])
            if found != usual:
                print(f"port {usual} is taken, so {found} it is; {variable}=N chooses another", file=sys.stderr)
            return str(found)
    return str(usual)


def main() -> None:
    """Becomes ``clusterd run`` with the demo's configuration; its pid is the one that the greeting names."""
    os.environ["PORT"] = port("PORT", 8000)
    os.environ["MONITORING_PORT"] = port("MONITORING_PORT", 9190)
    names = {
        "app": f"http://127.0.0.1:{os.environ['PORT']}",
        "monitoring": f"http://127.0.0.1:{os.environ['MONITORING_PORT']}",
        "pid": os.getpid(),
        "clusterd": os.path.relpath(Path(sys.executable).with_name("clusterd")),
    }
    commands = [(command.format(**names), what) for command, what in TO_TRY]
    width = max(len(command) for command, _ in commands)
    print("clusterd runs the demo: {app}/ behind 4 workers, monitoring at {monitoring}/metrics".format(**names))
    print("Ctrl-C ends it. Meanwhile, in another terminal:\n")
    print("\n".join(f"  {command.ljust(width)}   {what}" for command, what in commands), end="\n\n", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "clusterd", "run", "--config", os.path.relpath(HERE / "demo.toml")])


if __name__ == "__main__":
    main()

"""The proof that forking is safe, and apps that cannot be imported, with real processes."""

import json

import pytest

from tests.procfs import wait_for
from tests.real.harness import DEADLINE, IN_TURN, Launcher, merged
from tests.real.looking import app, ask, children, pids_of, start, zygote

THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, name='pump', daemon={}).start()"

UNSAFE = {
    "thread": (THREAD.format(True), "pump ("),
    "endless": (THREAD.format(False), "pump ("),
    "epoll": ("import select\nkept = select.epoll()", "eventpoll"),
    "unix": ("import socket\nkept = socket.socketpair()", "unix socket"),
    "udp": ("import socket\nkept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "socket:["),
    "pipe": ("import os\nkept = os.pipe()", "pipe:["),
    "child": ("import subprocess\nkept = subprocess.Popen(['sleep', '60'])", "child process(es)"),
    "zombie": ("import os\nif not os.fork(): os._exit(0)", "child process(es)"),
    "fork": ("import os\nos.fork()", "child process(es)"),
    "exit": ("import os, sys\nif not os.fork(): sys.exit(0)", "child process(es)"),
}
"""What an app may do while it is imported that a fork would break, and what the warning names."""


@pytest.mark.slow
def test_an_import_after_which_forking_is_unsafe_is_made_in_each_worker(launcher: Launcher) -> None:
    """One service with a pool for each case; in the workers the apps do no such thing, so that these end cleanly."""
    for name, (source, _) in UNSAFE.items():
        guarded = "import os\nif 'zygote' in open('/proc/self/cmdline').read():\n    " + source.replace("\n", "\n    ")
        text = app(f"{guarded}\nimporter = os.getpid()\nasync def answer(path):\n    return importer")
        (launcher.folder / f"app_{name}.py").write_text(text)
    settings = {
        "listeners": {"http": None, **{name: {"address": "127.0.0.1:0"} for name in UNSAFE}},
        "pools": {
            "web": None,
            **{name: {"app": f"app_{name}:app", "listeners": [name], "workers": 1} for name in UNSAFE},
        },
    }
    service = launcher.start(app(), settings)
    for name, (_, named) in UNSAFE.items():
        warning = service.wait_log("preload_unsafe", pool=name)
        assert named in warning["reason"]
        assert "imports the app for itself" in warning["reason"]
        assert service.wait_log("zygote_ready", pool=name)["preloaded"] is False
        (worker,) = service.workers(name)
        assert ask(service, listener=name) == worker["pid"]
    wait_for(lambda: len(children(service.pid)) == 2 * len(UNSAFE), DEADLINE, "the end of what the apps had started")


def test_an_app_that_forks_in_each_worker_does_not_serve_twice(launcher: Launcher) -> None:
    service = start(launcher, app("import os\nos.fork()\nasync def answer(path):\n    return os.getpid()"))
    service.wait_log(lambda record: "came back from the import" in str(record.get("line", record)))
    assert {ask(service) for _ in range(6)} <= set(pids_of(service).values())


def test_a_library_that_settles_at_the_first_fork_is_preloaded(launcher: Launcher) -> None:
    """As numpy's BLAS does: its threads end in a handler that runs before each fork."""
    source = """
import os, threading
stop = threading.Event()
worker = threading.Thread(target=stop.wait)
worker.start()
def settle():
    stop.set()
    worker.join()
os.register_at_fork(before=settle)
importer = os.getpid()
async def answer(path):
    return importer
"""
    service = start(launcher, app(source))
    assert service.wait_log("zygote_ready")["preloaded"] is True
    assert ask(service) == zygote(service)
    assert not service.logged("preload_unsafe")


def test_preload_true_forks_all_the_same_and_warns(launcher: Launcher) -> None:
    source = """
import os, threading
threading.Thread(target=threading.Event().wait, name="pump", daemon=True).start()
importer = os.getpid()
async def answer(path):
    return importer
"""
    service = start(launcher, app(source), {"pools": {"web": {"preload": True}}})
    warning = service.wait_log("preload_unsafe")
    assert "pump" in warning["reason"]
    assert "forking from there all the same" in warning["reason"]
    assert ask(service) == zygote(service)


def test_preload_false_imports_in_each_worker(launcher: Launcher) -> None:
    source = "import os\nimporter = os.getpid()\nasync def answer(path):\n    return importer"
    service = start(launcher, app(source), merged(IN_TURN, {"pools": {"web": {"preload": False}}}))
    assert {ask(service) for _ in range(4)} == set(pids_of(service).values())
    assert not service.logged("preload_unsafe")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys\nsys.exit(5)", "sys.exit(5)"),
        ("raise RuntimeError('кот ' * 20000)", "RuntimeError"),
        ("import os\nos._exit(5)", "exit code 5"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import threading\nthreading.Thread(target=threading.Event().wait).start()\n1/0", "ZeroDivisionError"),
        ("def app(environ, start_response):\n    return []", "WSGI"),
        ("app = 7", "int"),
        ("import os\nos.closerange(3, 100)", "zygote"),
    ],
    ids=["sys.exit", "long report", "os._exit", "signal", "thread", "wsgi", "no app", "closes all"],
)
def test_an_app_that_cannot_be_imported_ends_the_service_with_the_reason(
    launcher: Launcher, source: str, said: str
) -> None:
    restart = {"initial_delay": "10ms", "give_up_after": 2}
    service = start(launcher, source, {"pools": {"web": {"restart": restart}}}, ready=False)
    assert service.wait_exit() == 1
    assert said in service.transcript()
    assert len(service.logged("zygote_failed")) == 2


HANGS = "import threading\nprint('hanging', flush=True)\nthreading.Event().wait()"


def test_an_import_that_hangs_is_given_up_after_start_timeout(launcher: Launcher) -> None:
    pool = {"start_timeout": "500ms", "restart": {"give_up_after": 1}}
    service = start(launcher, HANGS, {"pools": {"web": pool}}, ready=False)
    assert service.wait_exit() == 1
    assert "had not imported the app within 0.5s" in service.transcript()


@pytest.mark.parametrize("preload", [True, False])
def test_a_service_whose_import_hangs_ends_promptly(launcher: Launcher, preload: bool) -> None:
    service = start(launcher, HANGS, {"pools": {"web": {"preload": preload}}}, ready=False)
    service.wait_log(lambda record: "hanging" in json.dumps(record))
    assert service.stop(deadline=4) == 0

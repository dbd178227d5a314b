"""The root of a Debian that is newer than the one that `make test` runs on, for a systemd that is."""

import fcntl
import shutil
import subprocess
from pathlib import Path

from tests.real.containers.engine import CACHE

SUITE = "trixie"
NEWEST = "sid"
"""Where the systemd is of last month: what no release has yet."""

PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "procps", "iproute2")
"""What is in it beside the base. Python for the libraries that it brings: its own is not what services run on here."""


def newer_root(suite: str = SUITE) -> Path:
    """The root, made with debootstrap if it is not there: two minutes, once a machine. Nothing may write to it."""
    root, unfinished = CACHE / f"root-{suite}", CACHE / f"root-{suite}.unfinished"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of several runs one makes it
        if not root.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            make = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(unfinished)]
            subprocess.run(make, check=True, capture_output=True)
            shutil.rmtree(unfinished / "var/cache/apt/archives", ignore_errors=True)
            unfinished.rename(root)
    return root

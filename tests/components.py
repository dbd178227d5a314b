"""The real programs that tests run, and where they come from: Debian's packages, and npm's for Node's world.

A test that runs one is marked ``@pytest.mark.needs("node")``. ``python -m tests.components --install`` installs what is
missing, packages as root or through sudo; without those rights, or without the network, it says which programs are
missing, and ``tests/conftest.py`` leaves out the tests that need them and says so.

Node is the reference that this is held against, so it is one version, the same everywhere, and never the machine's own:
``tests/node/package-lock.json`` pins it by its hash, and it is installed by npm into the user's cache.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CONTAINERS = {"podman": "podman", "runc": "runc", "conmon": "conmon", "catatonit": "catatonit"}
"""Program to package, for containers."""

SYSTEMD = {"systemd-analyze": "systemd", "dpkg-deb": "dpkg", "groff": "groff-base"}
"""Program to package, for the service manager."""

MONITORING = {"prometheus": "prometheus", "promtool": "prometheus"}
"""Program to package, for metrics."""

TEST_PACKAGES = {"haproxy": "haproxy", "kubectl": "kubernetes-client"} | CONTAINERS | SYSTEMD | MONITORING
"""Program to package, for ``make test``."""

BENCH_PACKAGES = TEST_PACKAGES | {"wrk": "wrk", "debootstrap": "debootstrap", "npm": "npm"}
"""Program to package, for ``make bench``."""

PACKAGES = TEST_PACKAGES | BENCH_PACKAGES

NOT_ASKED = "not asked to install"

PINNED = Path(__file__).parent / "node"
"""What is taken from npm, by version and hash."""


def node_home() -> Path:
    """Where what :data:`PINNED` names is installed, or would be: beside that of other checkouts, which pin another."""
    lock = hashlib.sha256((PINNED / "package-lock.json").read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "clusterd-tests" / f"node-{lock[:16]}"


def node_programs() -> Path:
    """The directory that goes first on ``PATH``, so that ``node`` is the pinned one for every process of a test."""
    return node_home() / "node_modules/.bin"


def source(program: str) -> str | None:
    """Where a program comes from, for people; ``None``: no test may need it."""
    if program == "node":
        return "npm, as tests/node/package-lock.json pins it"
    return f"Debian package {PACKAGES[program]}" if program in PACKAGES else None


def is_there(program: str) -> bool:
    """Whether it is installed; of Node's own, the pinned one."""
    return (node_programs() / program).exists() if program == "node" else shutil.which(program) is not None


def missing(packages: dict[str, str]) -> list[str]:
    """The programs of ``packages`` that are not installed."""
    return [program for program in packages if not is_there(program)]


def superuser() -> list[str] | None:
    """What goes before a command that needs root: nothing as root, sudo where it asks no password, else ``None``."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def install(programs: list[str]) -> str | None:
    """Installs the packages of ``programs``; returns why it could not, or ``None`` when they are there."""
    packages = sorted({PACKAGES[program] for program in programs})
    wanted = " ".join(packages)
    prefix = superuser()
    if shutil.which("apt-get") is None:
        return f"no apt-get here; install by hand: {wanted}"
    if prefix is None:
        return f"neither root nor sudo without a password; as root: apt-get install {wanted}"
    print(f"installing {wanted} …", flush=True)
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run([*prefix, *environment, "apt-get", *step], stdout=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            return f"apt-get {step[0]} failed with exit code {done.returncode}"
    still = missing({program: PACKAGES[program] for program in programs})
    return f"installed {wanted}, but not found on PATH: {', '.join(still)}" if still else None


def install_node() -> str | None:
    """Installs what is pinned of npm's; returns why it could not, or ``None`` when it is there."""
    if shutil.which("npm") is None and (trouble := install(["npm"])):
        return trouble
    home = node_home()
    print(f"installing Node into {home} …", flush=True)
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, and moved there when it is whole: another checkout's tests may be doing the same.
        with tempfile.TemporaryDirectory(dir=home.parent, prefix="new-") as place:
            shutil.copytree(PINNED, place, dirs_exist_ok=True)
            flags = ["--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(["npm", "ci", *flags], stdout=subprocess.DEVNULL, cwd=place, check=False)
            if done.returncode != 0:
                return f"npm ci failed with exit code {done.returncode}"
            if not home.exists():
                Path(place).chmod(0o755)
                Path(place).rename(home)
                Path(place).mkdir()  # for its remover
    except OSError as error:
        return f"{error}"
    return None if is_there("node") else "npm has no Node for this machine's processor"


def main() -> None:
    """Installs what is missing, or says what is; exits 0 also then, because the tests decide what it means."""
    parser = argparse.ArgumentParser(prog="python -m tests.components", description="the real programs that tests run")
    parser.add_argument("--install", action="store_true", help="install what is missing")
    parser.add_argument("--bench", action="store_true", help="what the benches need, instead of the tests")
    arguments = parser.parse_args()
    absent = missing(BENCH_PACKAGES if arguments.bench else TEST_PACKAGES)
    if absent:
        _tell(absent, install(absent) if arguments.install else NOT_ASKED)
    if not is_there("node"):
        _tell(["node"], install_node() if arguments.install else NOT_ASKED)


def _tell(absent: list[str], trouble: str | None) -> None:
    if trouble:
        print(f"missing: {', '.join(absent)} ({trouble}); what needs them is left out", file=sys.stderr)


if __name__ == "__main__":
    main()

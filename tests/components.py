"""The real programs that tests run, and the Debian packages they come from.

A test that runs one is marked ``@pytest.mark.needs("node")``. ``python -m tests.components --install`` installs what is
missing, as root or through sudo; without those rights it says which programs are missing, and ``tests/conftest.py``
leaves out the tests that need them and says so.
"""

import argparse
import os
import shutil
import subprocess
import sys

CONTAINERS = {"podman": "podman", "runc": "runc", "conmon": "conmon", "catatonit": "catatonit"}
"""Program to package, for containers."""

SYSTEMD = {"systemd-analyze": "systemd", "dpkg-deb": "dpkg", "groff": "groff-base"}
"""Program to package, for the service manager."""

MONITORING = {"prometheus": "prometheus", "promtool": "prometheus"}
"""Program to package, for metrics."""

TEST_PACKAGES = (
    {"node": "nodejs", "haproxy": "haproxy", "kubectl": "kubernetes-client"} | CONTAINERS | SYSTEMD | MONITORING
)
"""Program to package, for ``make test``."""

BENCH_PACKAGES = TEST_PACKAGES | {"wrk": "wrk", "debootstrap": "debootstrap", "npm": "npm"}
"""Program to package, for ``make bench``."""

PACKAGES = TEST_PACKAGES | BENCH_PACKAGES


def missing(packages: dict[str, str]) -> list[str]:
    """The programs of ``packages`` that are not on ``PATH``."""
    return [program for program in packages if shutil.which(program) is None]


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


def main() -> None:
    """Installs what is missing, or says what is; exits 0 also then, because the tests decide what it means."""
    parser = argparse.ArgumentParser(prog="python -m tests.components", description="the real programs that tests run")
    parser.add_argument("--install", action="store_true", help="install what is missing")
    parser.add_argument("--bench", action="store_true", help="what the benches need, instead of the tests")
    arguments = parser.parse_args()
    absent = missing(BENCH_PACKAGES if arguments.bench else TEST_PACKAGES)
    if not absent:
        return
    trouble = install(absent) if arguments.install else "not asked to install"
    if trouble:
        print(f"missing: {', '.join(absent)} ({trouble}); what needs them is left out", file=sys.stderr)


if __name__ == "__main__":
    main()

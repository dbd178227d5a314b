#!/usr/bin/env python3
"""Builds the Debian package: ``packaging/debian/build.py OUTPUT`` writes ``clusterd_VERSION_ARCH.deb`` there.

A virtual environment in the package, at /usr/lib/clusterd: Debian has neither all that clusterd stands on nor the
versions it needs, and a service manager must not break because an application upgraded a library. It sees the system's
packages, so an application from Debian packages is found; one with an environment of its own is named by ``PYTHONPATH``
in its pool's ``env``. The package belongs to the minor version of the system's Python, which its dependency says.

Needs ``/usr/bin/python3``, ``dpkg-deb``, and this interpreter's pip, which fetches what pyproject.toml names.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHON = "/usr/bin/python3"
HOME = "usr/lib/clusterd"
UNITS = "usr/lib/systemd/system"


def run(*command: str | Path, **how: object) -> str:
    """A command's output; its error output and the end of the build, if it fails."""
    done = subprocess.run([os.fspath(word) for word in command], capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def install_program(stage: Path, source: Path) -> None:
    """The environment, with paths that are true once it is installed."""
    home = stage / HOME
    run(PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", home)
    pip = [sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "-q", "--no-warn-script-location"]
    # Ignoring what the system has: this environment must not change with it.
    run(*pip, "--ignore-installed", "--no-compile", f"{source}[fast,wsgi,redis,top]")
    for script in (home / "bin").iterdir():
        if script.is_symlink():
            continue
        if script.name != "clusterd":
            script.unlink()  # other programs' entry points, and activation, are of no use here
            continue
        text = script.read_text()
        script.write_text(re.sub(r"\A#!.*", f"#!/{HOME}/bin/python", text))
    config = home / "pyvenv.cfg"
    config.write_text("".join(line for line in config.open() if not line.startswith("command")))
    shutil.rmtree(home / "include", ignore_errors=True)
    (stage / "usr/bin").mkdir(parents=True)
    (stage / "usr/bin/clusterd").symlink_to(f"/{HOME}/bin/clusterd")


def install_files(stage: Path) -> None:
    """Units, users, directories, man pages, completions."""
    systemd = ROOT / "packaging/systemd"
    places = {
        f"{UNITS}/clusterd.service": systemd / "clusterd.service",
        f"{UNITS}/clusterd@.service": systemd / "clusterd@.service",
        f"{UNITS}/clusterd@.socket": systemd / "clusterd@.socket",
        "usr/lib/sysusers.d/clusterd.conf": systemd / "clusterd.sysusers",
        "usr/lib/tmpfiles.d/clusterd.conf": systemd / "clusterd.tmpfiles",
        "usr/share/doc/clusterd/copyright": ROOT / "LICENSE",
        "usr/share/doc/clusterd/changelog": ROOT / "packaging/CHANGELOG.md",
        "usr/share/doc/clusterd/README.md": ROOT / "README.md",
    }
    for place, origin in places.items():
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, stage / place)
    python = stage / HOME / "bin/python"
    for section in ("1", "5"):
        (stage / f"usr/share/man/man{section}").mkdir(parents=True)
    run(python, ROOT / "packaging/man.py", stage / "usr/share/man")
    completions = {
        "bash": "usr/share/bash-completion/completions/clusterd",
        "zsh": "usr/share/zsh/vendor-completions/_clusterd",
    }
    for shell, place in completions.items():
        script = run(
            python, "-m", "clusterd", env={"_CLUSTERD_COMPLETE": f"{shell}_source", "PATH": os.environ["PATH"]}
        )
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        (stage / place).write_text(script)


def control(stage: Path, version: str, architecture: str) -> None:
    """What dpkg is told, and what it runs."""
    folder = stage / "DEBIAN"
    folder.mkdir()
    minor = run(PYTHON, "-c", "import sys; print(sys.version_info.minor)").strip()
    size = sum(file.lstat().st_size for file in stage.rglob("*") if file.is_file()) // 1024
    text = (HERE / "control").read_text()
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "SIZE": str(size),
        "MINOR": minor,
        "NEXT": str(int(minor) + 1),
    }
    (folder / "control").write_text(re.sub(r"@(\w+)@", lambda found: values[found[1]], text))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(HERE / name, folder / name)
        (folder / name).chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(description="builds the Debian package")
    parser.add_argument("output", type=Path, help="the directory that it is written to")
    parser.add_argument("--version", help="Debian's version; else that of pyproject.toml")
    parser.add_argument("--source", default=ROOT, help="a wheel to put in, instead of this checkout")
    arguments = parser.parse_args()
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    version = arguments.version or declared[1]
    architecture = run("dpkg", "--print-architecture").strip()
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / "stage"
        stage.mkdir()
        stage.chmod(0o755)
        install_program(stage, arguments.source)
        install_files(stage)
        control(stage, version, architecture)
        for cache in stage.rglob("__pycache__"):
            shutil.rmtree(cache)
        arguments.output.mkdir(parents=True, exist_ok=True)
        package = arguments.output / f"clusterd_{version}_{architecture}.deb"
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", stage, package)
    print(package)


if __name__ == "__main__":
    main()

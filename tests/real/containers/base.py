"""The base image, made on the spot: the Python that runs these tests, what it links to, and nothing else.

There is no shell in it and no package manager, so what runs in it needs none. It is made once a machine, in a second.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Folders of the standard library that no service imports.
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "config-")

#: What this Python does not link to, but compiled packages do: parts of the C library that have moved into one file
#: and are still asked for, and what it loads itself when a thread is cancelled.
BY_NAME = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1", "libstdc++.so.6")


def recipe() -> str:
    """What the image depends on, as a short hash: this file, and the Python it is made of."""
    told = f"{sys.version} {sys.base_prefix} {Path(__file__).read_text()}"
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def write(path: Path) -> None:
    """Writes the root file system as a tar file, for ``podman import``; atomically."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    program = Path(sys.base_prefix, "bin", f"python{version}").resolve()
    unfinished = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(unfinished, "w") as tar:
        for name in ("tmp", "var/tmp", "run", "app", "etc", "proc", "sys", "dev", "usr/local/bin"):
            _folder(tar, name, 0o1777 if name.endswith("tmp") else 0o755)
        _text(tar, "etc/passwd", "root:x:0:0:root:/:/nonexistent\n")
        _text(tar, "etc/group", "root:x:0:\n")
        _text(tar, "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
        _file(tar, program, f"usr/local/bin/python{version}")
        for link in ("python3", "python"):
            _link(tar, f"usr/local/bin/{link}", f"python{version}")
        tar.add(library, f"usr/local/lib/python{version}", filter=_wanted)
        modules = [module for module in sorted((library / "lib-dynload").glob("*.so")) if "tkinter" not in module.name]
        libraries = set(_libraries([program, *modules]))
        folder = next(path.parent for path in libraries if path.name.startswith("libc.so."))
        for needed in sorted(libraries):
            _file(tar, needed, _placed(needed, folder))
    unfinished.replace(path)


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The standard library without what no service imports, with the bytecode that there is of it."""
    name = entry.name.split("/")
    left_out = len(name) > 4 and name[4].startswith(LEFT_OUT)
    optimized = entry.name.endswith(".pyc") and ".opt-" in entry.name
    return None if left_out or optimized or "_tkinter" in name[-1] else _roots(entry)


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _placed(path: Path, folder: Path) -> str:
    """Where the loader finds it without a cache: as here, but a library of this Python's own beside the C library."""
    return str((folder / path.name if path.is_relative_to(sys.base_prefix) else path).relative_to("/"))


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """The shared libraries of programs and modules, and the loader (ldd(1)), by the names they are asked for by."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    yield from {Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)}
    cache = subprocess.run([shutil.which("ldconfig") or "/sbin/ldconfig", "-p"], capture_output=True, text=True)
    for name in BY_NAME:
        if found := re.search(rf"^\s+{re.escape(name)} .*=> (/\S+)$", cache.stdout, re.MULTILINE):
            yield Path(found[1])


def _file(tar: tarfile.TarFile, path: Path, name: str) -> None:
    tar.add(path.resolve(), name, filter=_roots)


def _folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o644
    tar.addfile(entry, io.BytesIO(text.encode()))

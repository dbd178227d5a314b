"""The units that packages install are those that the code makes, and systemd understands the files beside them."""

import subprocess
from pathlib import Path

import pytest

from tests import packaged_units


@pytest.mark.parametrize(("name", "text"), packaged_units.units().items(), ids=lambda value: value.partition("\n")[0])
def test_a_packaged_unit_is_what_the_code_makes(name: str, text: str) -> None:
    assert (packaged_units.DIRECTORY / name).read_text() == text, "run `python -m tests.packaged_units`"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", ["clusterd@.service", "clusterd.service"])
def test_a_packaged_unit_is_tight(name: str) -> None:
    path = str(packaged_units.DIRECTORY / name)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=12", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize(
    ("program", "file", "path"),
    [
        ("systemd-sysusers", "clusterd.sysusers", "etc/passwd"),
        ("systemd-tmpfiles", "clusterd.tmpfiles", "run/clusterd"),
    ],
)
def test_users_and_directories_are_made(program: str, file: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    command = [program, f"--root={tmp_path}", str(packaged_units.DIRECTORY / file)]
    if program == "systemd-tmpfiles":
        (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tmp_path / "etc/group").write_text("root:x:0:\n")
        command.insert(1, "--create")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / path
    assert made.is_dir() or "clusterd" in made.read_text()

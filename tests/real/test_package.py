"""The package as users get it: built, installed and run outside the checkout."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.real.harness import Launcher

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, to be put before everything else on the module path."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return folder


def test_the_wheel_is_pure_and_typed_and_holds_the_package_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"clusterd-{VERSION}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert "clusterd/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"clusterd", f"clusterd-{VERSION}.dist-info"}
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "clusterd").rglob("*.py")}
    assert sources <= set(names)


def test_the_sdist_has_what_it_takes_to_build_and_to_test(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "clusterd/__init__.py", "tests/conftest.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".git/"))]


def test_the_installed_package_serves_outside_the_checkout(installed: Path, launcher: Launcher) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import clusterd; print(clusterd.__file__)"],
        cwd=launcher.folder,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    service = launcher.start(env={"PYTHONPATH": str(installed)})
    assert service.get().status == 200


def test_it_says_its_version(installed: Path, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "clusterd", "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert VERSION in said.stdout

"""What the README says of the code is what the code says."""

import re
import tomllib
from pathlib import Path

from tests.readme import README, generated

ROOT = Path(__file__).parent.parent


def test_the_tables_are_those_of_the_code() -> None:
    text = README.read_text()
    assert text == generated(text), "the README's tables are out of date: make readme"


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)`", README.read_text())) <= targets


def test_the_version_stands_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    copies = [file for file in (ROOT / "clusterd").rglob("*.py") if f'"{version}"' in file.read_text()]
    assert copies == []

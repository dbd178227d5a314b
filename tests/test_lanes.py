"""Every test runs in exactly one of the lanes of ``make test``."""

from collections import Counter
from pathlib import Path

from tests import lanes


def _files(paths: list[str]) -> list[Path]:
    return [file for path in map(Path, paths) for file in ([path] if path.is_file() else path.rglob("test_*.py"))]


def test_no_test_is_left_out_and_none_runs_twice() -> None:
    beside = [file for file in _files([*lanes.COMPUTES]) if str(file) not in lanes.STARTS_PROCESSES]
    apart = _files([*lanes.APART])
    services = [file for file in _files([*lanes.SERVICES]) if file not in apart]
    assert apart
    found = Counter([*beside, *apart, *services, *_files(lanes.rooms())])
    wanted = [file for file in Path("tests").rglob("test_*.py") if not file.is_relative_to(lanes.BENCH)]
    assert found == Counter(wanted)


def test_what_runs_beside_the_others_starts_no_process() -> None:
    starts = ("subprocess", "multiprocessing", "tests.real", "asyncio", "threading")
    for file in _files([*lanes.COMPUTES]):
        lines = [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        clean = not any(line.split()[1].startswith(starts) for line in lines)
        assert clean or str(file) in lanes.STARTS_PROCESSES, file

"""The planted faults can be planted: what each replaces stands in its file once, whatever the core has become."""

from tests.model.mutants import MUTANTS, ROOT


def test_what_a_planted_fault_replaces_stands_once_in_its_file() -> None:
    places = {one.name: (ROOT / "clusterd/core" / one.file).read_text().count(one.right) for one in MUTANTS}
    assert {name: count for name, count in places.items() if count != 1} == {}
    assert len(places) == len(MUTANTS)

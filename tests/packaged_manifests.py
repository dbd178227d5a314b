"""The manifests in ``deploy/kubernetes``, from the code: ``python -m tests.packaged_manifests`` writes them.

``tests/cli/test_manifests.py`` holds them to it.
"""

from dataclasses import replace
from pathlib import Path

from clusterd.cli import contained
from clusterd.cli.manifests import OLDEST, Wanted, autoscaler, kustomization, manifests, podmonitor

DIRECTORY = Path(__file__).parent.parent / "deploy" / "kubernetes"


def files() -> dict[str, str]:
    """Path below :data:`DIRECTORY` to text."""
    one = contained.read(str(DIRECTORY / "base" / "clusterd.toml"), balanced=True)
    wanted = Wanted(image="clusterd-demo", version=OLDEST)
    base = manifests(one, wanted)
    made = {"kustomization.yaml": kustomization(one, wanted, list(base)), **base}
    production = {
        "horizontalpodautoscaler.yaml": autoscaler(one, replace(wanted, replicas=3, most=30)),
        "podmonitor.yaml": podmonitor(one, wanted),
    }
    return {f"base/{name}": text for name, text in made.items()} | {
        f"overlays/production/{name}": text for name, text in production.items()
    }


if __name__ == "__main__":
    for name, text in files().items():
        (DIRECTORY / name).write_text(text)

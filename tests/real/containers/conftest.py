"""The image under test, once a run, and containers that end with the test."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.containers.engine import Container, image
from tests.real.harness import Settings, merged, toml
from tests.real.playground import APP


@pytest.fixture(scope="session")
def clusterd_image() -> str:
    """The repository's Dockerfile on the base that was made on the spot."""
    return image()


class Runner:
    """Runs containers of the image under test for one test.

    Attributes:
        folder: what is seen as ``/app``: the app's source and its configuration.
    """

    def __init__(self, image: str, folder: Path) -> None:
        self.image = image
        self.folder = folder
        self.containers: list[Container] = []

    def write(self, app: str = APP, settings: Settings | None = None, *, workers: int = 2) -> None:
        """Writes ``app.py`` and ``clusterd.toml``: one pool ``web`` on free ports, with ``settings`` laid over it."""
        usual = {
            "config_version": 1,
            "clusterd": {"name": "test"},
            "listeners": {"http": {"address": "127.0.0.1:0"}},
            "pools": {"web": {"app": "app:app", "workers": workers}},
            "shutdown": {"linger": "200ms", "drain_timeout": "10s"},
            "monitoring": {"address": "127.0.0.1:0"},
        }
        (self.folder / "app.py").write_text(app)
        (self.folder / "clusterd.toml").write_text(toml(merged(usual, settings or {})))

    def run(
        self, *arguments: str, flags: Sequence[str] = (), env: Mapping[str, str] | None = None, app: Path | None = None
    ) -> Container:
        """A container; without arguments the image's own command."""
        container = Container(self.image, arguments, flags=flags, env=env, app=app or self.folder)
        self.containers.append(container)
        return container

    def start(
        self,
        app: str = APP,
        settings: Settings | None = None,
        *,
        workers: int = 2,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Container:
        """A container whose service is ready, with all its workers."""
        self.write(app, settings, workers=workers)
        return self.run(flags=flags, env=env).wait_ready(workers)

    def finish(self) -> None:
        with ExitStack() as ending:
            for container in self.containers:
                ending.callback(container.destroy)


@pytest.fixture
def runner(clusterd_image: str, tmp_path: Path) -> Iterator[Runner]:
    """Runs containers; at the end of the test each is removed."""
    tmp_path.chmod(0o755)
    runner = Runner(clusterd_image, tmp_path)
    yield runner
    runner.finish()

"""``clusterd upgrade``: asks a running primary to become the code that is installed now, and waits until it has."""

from select import select
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from clusterd.cli.choose import socket_of, which_service
from clusterd.errors import NotRunning, RequestFailed

if TYPE_CHECKING:
    from clusterd.client import Client

WITHIN = 30.0
"""Seconds in which the primary becomes the new code."""

LOOK = 0.02


@click.command()
@which_service
@click.option("--check", is_flag=True, help="Only try out whether the new code would work.")
def upgrade(config_path: str | None, name: str | None, run_dir: str | None, check: bool) -> None:
    """Replace the primary's own code by what is installed now: same pid, same workers, no connection lost."""
    from clusterd.client import Client

    client = Client(socket_of(config_path, name, run_dir))
    before = client.status()["service"]
    client.upgrade(check=check)
    if check:
        print("the new code would take over")
        return
    after = _upgraded(client, before["upgrades"])
    print(f"upgraded from {before['version']} to {after['version']}, pid {after['pid']} as before")


def _upgraded(client: "Client", before: int) -> dict[str, Any]:
    """The service once its primary is the new code."""
    end = monotonic() + WITHIN
    while True:
        try:
            service: dict[str, Any] = client.status()["service"]
            if service["upgrades"] > before:
                return service
        except NotRunning:
            pass  # whoever was to answer has become another program meanwhile
        if monotonic() > end:
            raise RequestFailed(
                f"the primary did not become the new code within {WITHIN:g} s; its log says why, and it serves on"
            )
        select([], [], [], LOOK)

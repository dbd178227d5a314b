"""The units that the packages install, from the code: ``python -m tests.packaged_units`` writes them.

``tests/cli/test_packaged_units.py`` holds them to it.
"""

from pathlib import Path

from clusterd.cli.units import Fit, service_unit, socket_unit

DIRECTORY = Path(__file__).parent.parent / "packaging" / "systemd"
PROGRAM = "/usr/bin/clusterd"
ABOUT_SOCKET = (
    "# Another address than this one: `systemctl edit`, with `ListenStream=` empty first and then the address."
)


def units() -> dict[str, str]:
    """File name to text."""
    instance = Fit(
        title="%i",
        command=[PROGRAM, "run", "--config", "/etc/clusterd/%i.toml"],
        control=["--run-dir", "/run/clusterd/%i"],
        runtime="clusterd/%i",
        directory="/etc/clusterd",
        environment="/etc/clusterd/%i.env",
        descriptors=8,
    )
    alone = Fit(
        title="The service of /etc/clusterd/clusterd.toml",
        command=[PROGRAM, "run", "--config", "/etc/clusterd/clusterd.toml"],
        control=["--run-dir", "/run/clusterd/clusterd"],
        runtime="clusterd/clusterd",
        directory="/etc/clusterd",
        environment="/etc/clusterd/clusterd.env",
        descriptors=8,
        user="clusterd",
    )
    socket = socket_unit("%i", "clusterd@%i.service", "", "/run/clusterd-%i.sock", mode=0o660)
    return {
        "clusterd@.service": service_unit(instance),
        "clusterd@.socket": socket.replace("ListenStream=", f"{ABOUT_SOCKET}\nListenStream="),
        "clusterd.service": service_unit(alone),
    }


if __name__ == "__main__":
    for name, text in units().items():
        (DIRECTORY / name).write_text(text)

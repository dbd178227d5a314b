"""The units that ``clusterd generate systemd`` makes: what stands in them, and how tight systemd finds them."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clusterd.cli import cli, units

BASE = '[listeners.http]\naddress = "127.0.0.1:8000"\n\n[pools.web]\napp = "shop.asgi:app"\n'


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``generate(TOML, ARGUMENT…)`` runs the command in the directory of that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLUSTERD_CONFIG", raising=False)

    def run(text: str, *arguments: str) -> Result:
        Path("clusterd.toml").write_text(text)
        return CliRunner().invoke(cli, ["generate", "systemd", *arguments])

    return run


def fit(**over: object) -> units.Fit:
    """A service in no home directory, which is where this checkout may be."""
    return units.Fit(
        title="shop",
        command=["/usr/bin/clusterd", "run"],
        runtime="clusterd/shop",
        **over,  # type: ignore[arg-type]
    )


def directives(text: str) -> dict[str, list[str]]:
    """Each directive with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def files_in(output: str) -> dict[str, str]:
    """Printed files by name; one alone has no heading."""
    parts = re.split(r"(?m)^# (\S+\.(?:service|socket))\n", output)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -- what stands in them ----------------------------------------------------------------------------------------------


def test_a_unit_is_fitted_to_its_configuration(generate, tmp_path: Path) -> None:
    done = generate(BASE + "[shutdown]\nlame_duck = '5s'\nlinger = '2s'\ndrain_timeout = '40s'\n", "--systemd", "252")
    assert done.exit_code == 0, done.output
    unit = directives(done.output)
    assert unit["Type"] == ["notify"]
    assert unit["KillMode"] == ["process"]
    assert unit["OOMPolicy"] == ["continue"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["78 2"]
    assert unit["TimeoutStopSec"] == ["52s"]  # above lame duck, linger and drain
    assert unit["Environment"] == ["CLUSTERD_GRACE_PERIOD=52s"]
    assert int(unit["FileDescriptorStoreMax"][0]) >= 1
    assert unit["RuntimeDirectory"] == ["clusterd/shop"]
    assert unit["WorkingDirectory"] == [str(tmp_path)]
    assert unit["ExecStart"][0].endswith(f"clusterd run --config {tmp_path}/clusterd.toml")


def test_the_grace_period_that_the_unit_tells_is_one_that_check_accepts(generate) -> None:
    text = BASE + "[shutdown]\nlame_duck = '5s'\nlinger = '2s'\ndrain_timeout = '40s'\n"
    (said,) = directives(generate(text).output)["Environment"]
    name, _, value = said.partition("=")
    checked = CliRunner().invoke(cli, ["check"], env={name: value})
    assert checked.exit_code == 0, checked.output


def test_an_unbounded_drain_is_given_all_the_time(generate) -> None:
    unit = directives(generate(BASE + "[shutdown]\ndrain_timeout = 0\n").output)
    assert unit["TimeoutStopSec"] == ["infinity"]
    assert "Environment" not in unit


def test_a_newer_systemd_is_used_where_it_has_more() -> None:
    old, new = directives(units.service_unit(fit(version=252))), directives(units.service_unit(fit(version=260)))
    assert old["Type"] == ["notify"]
    assert "RestartSteps" not in old
    assert new["Type"] == ["notify-reload"]
    assert new["RestartSteps"]


def test_more_descriptors_than_systemd_grants_are_asked_for(generate) -> None:
    assert "LimitNOFILE" not in directives(generate(BASE + "limits.nofile = 500000\n").output)
    assert directives(generate(BASE + "limits.nofile = 1000000\n").output)["LimitNOFILE"] == ["1024:1000000"]
    assert directives(generate(BASE + "limits.nofile = 'unlimited'\n").output)["LimitNOFILE"] == ["1024:infinity"]


def test_a_reload_of_the_unit_waits_for_the_verdict(generate, tmp_path: Path) -> None:
    """The service is found without the file, which may be the one that is wrong."""

    def reload_of(text: str, version: int) -> list[str]:
        unit = directives(generate(text, "--systemd", str(version)).output)
        return [line.partition("clusterd reload ")[2] or line for line in unit.get("ExecReload", [])]

    assert reload_of(BASE, 252) == ["--run-dir /run/clusterd/shop --timeout 24h"]
    assert reload_of(BASE, 253) == ["--run-dir /run/clusterd/shop --verdict --timeout 24h"]
    own = BASE + "[clusterd]\nrun_dir = '/run/shop'\n"
    assert reload_of(own, 252) == ["--run-dir /run/shop --timeout 24h"]
    elsewhere = BASE + "[control]\nsocket = '/run/clusterd/shop/other.sock'\n"
    assert reload_of(elsewhere, 252) == [f"--config {tmp_path}/clusterd.toml --timeout 24h"]
    assert reload_of(BASE + "[control]\nsocket = 0\n", 252) == ["/bin/kill -HUP $MAINPID"]
    assert reload_of(BASE + "[control]\nsocket = 0\n", 253) == []


def test_what_is_below_a_thousand_or_a_file_is_listened_on_by_systemd(generate) -> None:
    text = (
        '[listeners.web]\naddress = ":80"\nbacklog = 99\n[listeners.admin]\naddress = "[::1]:8001"\n'
        '[listeners.local]\naddress = "unix:/run/shop.sock"\nmode = "0666"\nuser = "root"\n'
        '[pools.web]\napp = "shop:app"\n'
    )
    files = files_in(generate(text).output)
    assert set(files) == {"shop.service", "shop-web.socket", "shop-local.socket"}
    web, local = directives(files["shop-web.socket"]), directives(files["shop-local.socket"])
    assert (web["ListenStream"], web["Backlog"], web["BindIPv6Only"]) == (["80"], ["99"], ["both"])
    assert (web["FileDescriptorName"], web["Service"]) == (["web"], ["shop.service"])
    assert (local["ListenStream"], local["SocketMode"], local["SocketUser"]) == (["/run/shop.sock"], ["0666"], ["root"])
    assert directives(files["shop.service"])["Sockets"] == ["shop-web.socket", "shop-local.socket"]
    everything = files_in(generate(text, "--socket").output)
    assert directives(everything["shop-admin.socket"])["ListenStream"] == ["[::1]:8001"]
    assert set(files_in(generate(text, "--no-socket").output)) == set()  # a single file has no heading


def test_a_name_is_no_address_for_systemd(generate) -> None:
    text = BASE.replace("127.0.0.1", "shop.example")
    done = generate(text, "--socket")
    assert done.exit_code == 2
    assert "shop.example" in done.output
    assert "--no-socket" in done.output


def test_credentials_that_the_file_refers_to_are_loaded(generate) -> None:
    text = BASE + 'env = { KEYS = "${CREDENTIALS_DIRECTORY}/keys.json" }\n'
    assert directives(generate(text).output)["LoadCredential"] == ["keys.json:/etc/clusterd/credentials/keys.json"]


def test_pools_of_other_users_make_a_root_primary_with_few_capabilities(generate) -> None:
    text = '[listeners.http]\naddress = ":443"\n[pools.web]\napp = "shop:app"\nuser = "nobody"\n'
    unit = directives(generate(text, "--no-socket").output)
    (bounding,) = unit["CapabilityBoundingSet"]
    assert set(bounding.split()) == {"CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
    assert "DynamicUser" not in unit
    (bounding,) = directives(files_in(generate(text).output)["shop.service"])["CapabilityBoundingSet"]
    assert "BIND" not in bounding  # systemd binds it
    refused = generate(text, "--user", "shop")
    assert refused.exit_code == 2
    assert "web" in refused.output


def test_words_are_quoted_for_systemd() -> None:
    text = units.service_unit(fit(directory="/srv/50% off", hidden=["/home/my shop"]))
    assert "WorkingDirectory=/srv/50%% off" in text
    assert 'BindReadOnlyPaths="/home/my shop"' in text
    (start,) = directives(units.service_unit(units.Fit(title="x", command=["/a b/$c", "run"], runtime="x")))[
        "ExecStart"
    ]
    assert start == '"/a b/$$c" run'


# -- where they go ----------------------------------------------------------------------------------------------------


def test_files_are_written_and_nothing_is_overwritten_unasked(generate, tmp_path: Path) -> None:
    done = generate(BASE, "--socket", "--directory", "units")
    assert done.output.split() == ["units/shop.service", "units/shop.socket"]
    (tmp_path / "units/shop.socket").write_text("mine")
    again = generate(BASE, "--socket", "--directory", "units")
    assert again.exit_code == 2
    assert "shop.service, shop.socket" in again.output
    assert (tmp_path / "units/shop.socket").read_text() == "mine"
    assert generate(BASE, "--socket", "--directory", "units", "--force").exit_code == 0
    assert "[Socket]" in (tmp_path / "units/shop.socket").read_text()


def test_a_directory_that_cannot_be_had_is_one_error(generate, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = generate(BASE, "--directory", "file/units")
    assert done.exit_code == 1
    assert done.output.count("\n") == 1


def test_without_a_file_there_is_nothing_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["generate", "systemd", "--config", "none.toml"])
    assert done.exit_code != 0
    assert "none.toml" in done.output


# -- what systemd thinks of them --------------------------------------------------------------------------------------


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize(
    ("over", "at_most"),
    [
        ({}, 1.2),
        ({"user": "shop"}, 1.2),
        ({"roles": True}, 1.5),
        ({"affinity": ["web"]}, 1.5),
        ({"compilers": ["web"]}, 1.5),
        ({"hidden": ["/home/shop"]}, 1.5),
        ({"pool_users": ["web"]}, 2.1),
    ],
    ids=lambda value: ", ".join(value) or "default" if isinstance(value, dict) else None,
)
def test_exposure_is_below_its_threshold(over: dict[str, object], at_most: float, tmp_path: Path) -> None:
    unit = tmp_path / "shop.service"
    unit.write_text(units.service_unit(fit(**over)))
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={at_most * 10:g}", os.fspath(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


@pytest.mark.needs("systemd-analyze")
def test_systemd_knows_every_directive(generate, tmp_path: Path) -> None:
    text = BASE + 'user = "nobody"\nenv = { KEYS = "${CREDENTIALS_DIRECTORY}/keys" }\n'
    (tmp_path / "program").symlink_to("/bin/true")
    assert generate(text, "--socket", "--directory", "units", "--systemd", "252").exit_code == 0
    for unit in ("shop.service", "shop.socket"):
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"units/{unit}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "shop" not in done.stderr, done.stderr


def test_each_loosening_says_why() -> None:
    tight = units.service_unit(fit())
    for over, missing in (
        ({"roles": True}, "PrivateUsers"),
        ({"affinity": ["web"]}, "@resources"),
        ({"compilers": ["web"]}, "MemoryDenyWriteExecute"),
        ({"pool_users": ["web"]}, "PrivateUsers"),
    ):
        loose = units.service_unit(fit(**over))
        assert missing in "".join(f"{key}={value}" for key, all_ in directives(tight).items() for value in all_)
        assert any(missing in line for line in loose.splitlines() if line.startswith("#"))

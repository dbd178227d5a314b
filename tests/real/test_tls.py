"""TLS on listeners: what clients and apps see of it, client certificates, and all that goes wrong with files."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect as websocket

from tests.procfs import wait_for
from tests.real.clients import split
from tests.real.harness import DEADLINE, IN_TURN, Launcher, Record, Service, Settings
from tests.real.playground import last_words
from tests.real.secure import APP, GET, Authority, exchange, secured

SCHEDULING = ("rr", "none")


@pytest.fixture
def authority(launcher: Launcher) -> Authority:
    return Authority(launcher.folder)


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def start(launcher: Launcher, tls: dict[str, str], more: Settings | None = None, *, workers: int = 2) -> Service:
    over = more or {}
    settings = {
        "listeners": {"http": {"tls": tls, **over.get("listener", {})}},
        "pools": {"web": {**IN_TURN["pools"]["web"], **over.get("pool", {})}},
    }
    service = launcher.start(APP, settings, workers=workers)
    service.wait_log("worker_ready", count=workers)
    return service


def closed_unheard(service: Service) -> int:
    """How often it was said by now that connections were closed before their first request; waits for the first."""

    def says(record: Record) -> bool:
        return "closed before its first request" in str(record)

    service.wait_log(says)
    return len(service.logged(says))


@pytest.mark.parametrize("scheduling", SCHEDULING)
def test_clients_and_the_app_see_tls_as_they_should(launcher: Launcher, authority: Authority, scheduling: str) -> None:
    service = start(launcher, authority.issue(), {"pool": {"scheduling": scheduling}})
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured(service, context) as sock:
        assert sock.version() == "TLSv1.3"
        assert sock.selected_alpn_protocol() == "http/1.1"
        said = exchange(sock)
    assert said["scheme"] == "https"
    assert said["client"][0] == "127.0.0.1"
    assert said["tls"]["server_cert"] == (launcher.folder / "server.pem").read_text().strip()
    assert said["tls"]["tls_version"] == 0x0304
    assert said["tls"]["cipher_suite"] & 0xFF00 == 0x1300, "one of TLS 1.3's (RFC 8446, B.4)"
    assert (said["tls"]["client_cert_chain"], said["tls"]["client_cert_name"]) == ([], None)
    host, port = split(service.address())
    assert host == "127.0.0.1"
    with websocket(f"wss://localhost:{port}/", ssl=authority.client()) as client:
        assert '"scheme": "wss"' in client.recv(DEADLINE)
    pids = {exchange(secured(service, context))["pid"] for _ in range(12)}
    assert pids <= {worker["pid"] for worker in service.workers()}
    assert len(pids) == 2 or scheduling == "none"
    assert service.metrics().value("clusterd_connections_total", listener="http") == 14


def test_versions_before_1_2_are_refused_and_1_2_is_not(launcher: Launcher, authority: Authority) -> None:
    service = start(launcher, authority.issue(), workers=1)
    old, fair = authority.client(), authority.client()
    fair.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        secured(service, old)
    assert exchange(secured(service, fair))["tls"]["tls_version"] == 0x0303


def test_where_authorities_are_named_only_their_clients_get_in(launcher: Launcher, authority: Authority) -> None:
    service = start(launcher, {**authority.issue(), "client_ca": "ca.pem"}, workers=1)
    stranger = Authority(launcher.folder.parent)
    for bad in (authority.client(), stranger.client("mallory")):
        bad.check_hostname = False
        bad.verify_mode = ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError)):
            exchange(secured(service, bad))
    said = exchange(secured(service, authority.client("alice, of sales")))
    assert said["tls"]["client_cert_name"].startswith("CN=alice\\, of sales,")
    assert "BEGIN CERTIFICATE" in said["tls"]["client_cert_chain"][0]
    assert closed_unheard(service) == 1


def test_a_session_is_resumed_by_any_worker_of_the_generation(launcher: Launcher, authority: Authority) -> None:
    service = start(launcher, authority.issue(), workers=2)
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its sessions come with the handshake, and not some time later
    first = secured(service, context)
    session = first.session
    exchange(first)
    pids = set()
    for _ in range(4):
        with secured(service, context, session=session) as again:
            assert again.session_reused
            pids.add(exchange(again)["pid"])
    assert len(pids) == 2


@pytest.mark.parametrize("scheduling", SCHEDULING)
def test_who_is_silent_slow_or_speaks_nonsense_holds_up_nobody(
    launcher: Launcher, authority: Authority, held: ExitStack, scheduling: str
) -> None:
    """One worker, and more silent clients than it may have unread: the handshake of each is its own affair."""
    service = start(launcher, authority.issue(), {"pool": {"scheduling": scheduling}}, workers=1)
    silent = [held.enter_context(service.connect()) for _ in range(20)]
    half = [held.enter_context(service.connect()) for _ in range(10)]
    for sock in half:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # a ClientHello that goes no further
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 20000):
        with service.connect() as sock:
            try:
                sock.sendall(garbage)
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass  # as good an end
    (worker,) = service.workers()
    assert exchange(secured(service, authority.client()))["pid"] == worker["pid"]
    assert closed_unheard(service) == 1
    for sock in [*silent, *half]:
        sock.close()
    wait_for(lambda: service.metrics().value("clusterd_connections_open") == 0, DEADLINE, "the end of all of them")


def test_the_drain_serves_who_has_begun_and_waits_for_nobody_else(
    launcher: Launcher, authority: Authority, held: ExitStack
) -> None:
    service = start(launcher, authority.issue(), workers=1)
    sock = held.enter_context(secured(service, authority.client()))
    sock.sendall(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\n")
    service.wait_log("output", text="begun")
    silent = held.enter_context(service.connect())
    wait_for(lambda: service.metrics().value("clusterd_connections_open") == 2, DEADLINE, "both connections")
    service.signal(signal.SIGTERM)
    service.wait_log("worker_draining")
    assert silent.recv(1) == b"", "linger is over, and it has not even said hello"
    sock.sendall(b"x")
    answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nconnection: close" in answer.lower()
    sock.close()
    assert service.wait_exit() == 0
    assert not service.logged("worker_killed")


def test_a_worker_that_dies_is_replaced_by_one_with_the_same_files_though_they_have_changed(
    launcher: Launcher, authority: Authority
) -> None:
    """Certificate and key are a matter of the generation: half a renewal on disk must not break a respawn."""
    service = start(launcher, authority.issue(), workers=1)
    before = exchange(secured(service, authority.client()))
    (launcher.folder / "server.key").unlink()
    os.kill(before["pid"], signal.SIGKILL)
    service.wait_log("worker_ready", count=2)
    after = exchange(secured(service, authority.client()))
    assert after["pid"] != before["pid"]
    assert after["tls"]["server_cert"] == before["tls"]["server_cert"]


def reload(service: Service) -> dict[str, object]:
    """SIGHUP, and the verdict."""
    mark = service.mark()
    service.signal(signal.SIGHUP)
    return dict(service.wait_log("reload_ended", after=mark, deadline=60))


@pytest.mark.parametrize("scheduling", SCHEDULING)
def test_a_reload_reads_the_files_again_and_what_is_wrong_with_them_harms_nobody(
    launcher: Launcher, authority: Authority, scheduling: str
) -> None:
    pool = {"scheduling": scheduling, "reload": {"canary": "100ms"}}
    service = start(launcher, authority.issue(), {"pool": pool}, workers=2)

    def served() -> str:
        return str(exchange(secured(service, authority.client()))["tls"]["server_cert"])

    def promoted() -> bool:
        """The verdict does not wait for the old ones' end, and who accepts by itself does so until it knows of it."""
        verdict = reload(service)["verdict"]
        wait_for(lambda: len(service.workers()) == 2, DEADLINE, "the end of the old workers")
        return verdict == "promoted"

    first = served()
    authority.issue()  # a renewal
    assert served() == first, "on disk only"
    assert promoted()
    second = (launcher.folder / "server.pem").read_text().strip()
    assert {served() for _ in range(6)} == {second}
    (launcher.folder / "server.key").write_text("half a fi")  # half a renewal
    ended = reload(service)
    assert ended["verdict"] != "promoted"
    assert "tls.key" in str(ended), ended
    (launcher.folder / "server.key").unlink()
    assert reload(service)["verdict"] != "promoted"
    assert {served() for _ in range(6)} == {second}, "the good ones go on"
    authority.issue()
    assert promoted()
    assert {served() for _ in range(6)} == {(launcher.folder / "server.pem").read_text().strip()} != {second}


def test_over_a_unix_socket_too(launcher: Launcher, authority: Authority) -> None:
    service = start(launcher, authority.issue(), {"listener": {"address": "unix:shop.sock"}}, workers=1)
    said = exchange(secured(service, authority.client()))
    assert (said["scheme"], said["client"]) == ("https", None)


def test_files_that_cannot_be_used_are_one_sentence_of_check_and_of_run(launcher: Launcher) -> None:
    """Exit code 78, with file and line; every way in which they can be wrong: ``tests/cli/test_certificates.py``."""
    authority = Authority(launcher.folder)
    tls = {**authority.issue(), "key": "none.key"}
    service = launcher.start(APP, {"listeners": {"http": {"tls": tls}}}, ready=False)
    assert service.wait_exit() == 78
    said = "\n".join(last_words(service)).removeprefix("clusterd: ")
    assert said.startswith(f"{launcher.folder}/clusterd.toml:"), said
    assert f"listener http: tls.key {launcher.folder}/none.key: No such file or directory" in said
    command = [sys.executable, "-m", "clusterd", "check", "--config", str(launcher.folder / "clusterd.toml")]
    check = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert check.returncode == 78, check
    assert said.splitlines()[0] in check.stderr
    assert "Traceback" not in said + check.stderr


def test_a_client_that_does_not_speak_it_is_told_apart_from_one_that_does(
    launcher: Launcher, authority: Authority
) -> None:
    service = start(launcher, authority.issue(), workers=1)
    with service.connect() as client:
        client.sendall(GET)
        try:
            assert not client.recv(65536).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            pass
    said = service.wait_log(lambda record: "closed before its first request" in str(record))
    assert "http" in said["text"].lower()


def test_an_upgrade_reads_no_file_again(launcher: Launcher, authority: Authority) -> None:
    """The certificate is half exchanged meanwhile: a worker that is started after it has the one that was read."""
    service = start(launcher, authority.issue(), workers=1)
    before = exchange(secured(service, authority.client()))
    (launcher.folder / "server.pem").write_text("half of a certificate")
    service.signal(signal.SIGUSR2)
    service.wait_log("upgraded", 60)
    mark = service.mark()
    os.kill(before["pid"], signal.SIGKILL)
    service.wait_log("worker_ready", after=mark)
    after = exchange(secured(service, authority.client()))
    assert after["pid"] != before["pid"]
    assert after["tls"]["server_cert"] == before["tls"]["server_cert"]

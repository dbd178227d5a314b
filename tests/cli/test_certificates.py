"""Files of TLS that cannot be used: one sentence that names listener, key, file, what is wrong and what to do."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from clusterd.cli.certificates import verify
from clusterd.config import load
from clusterd.errors import ConfigError
from tests.real.secure import Authority


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the files of two certificates, ``server`` and ``other``, their authority, and much that is none."""
    authority = Authority(tmp_path)
    authority.issue()
    authority.issue("other")
    key = (tmp_path / "server.key").read_bytes()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "der").write_bytes(b"\x30\x82\x01\x0a")
    (tmp_path / "broken").write_bytes(key.replace(key[40:60], b"#" * 20))
    (tmp_path / "large").write_bytes(b"-----BEGIN CERTIFICATE-----" + b"x" * 2**20)
    os.mkfifo(tmp_path / "pipe")
    plain = serialization.load_pem_private_key(key, None)
    locked = plain.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "locked").write_bytes(locked)
    return tmp_path


def tried(folder: Path, cert: str, key: str, client_ca: str = "") -> str:
    """What is said; empty if all is well."""
    more = f'client_ca = "{client_ca}"\n' if client_ca else ""
    text = f'[listeners.http]\n[listeners.http.tls]\ncert = "{cert}"\nkey = "{key}"\n{more}[pools.web]\napp = "a:a"\n'
    loaded = load(text, file=str(folder / "shop.toml"), environ={})
    try:
        verify(loaded)
    except ConfigError as error:
        return str(error)
    return ""


def test_good_ones_are(folder: Path) -> None:
    assert tried(folder, "server.pem", "server.key") == ""
    assert tried(folder, "server.pem", "server.key", "ca.pem") == ""


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "expected"),
    [
        ("none.pem", "server.key", "", "tls.cert {}/none.pem: No such file or directory"),
        ("server.pem", "empty", "", "tls.key {}/empty: it is empty"),
        ("server.pem", "der", "", "tls.key {}/der: this is no PEM file; a key in DER is made one by"),
        ("der", "server.key", "", "tls.cert {}/der: this is no PEM file; a certificate in DER is made one by"),
        ("server.pem", "pipe", "", "tls.key {}/pipe: this is no file"),
        ("server.pem", ".", "", "this is no file"),
        ("server.pem", "other.key", "", "tls.key {}/other.key: it is not the key of the certificate in tls.cert"),
        ("server.pem", "broken", "", "it and tls.key must hold a certificate and a private key in PEM"),
        ("server.pem", "locked", "", "tls.key {}/locked: the key is encrypted, and nobody is there to ask"),
        ("large", "server.key", "", "bytes are too many; at most 1048576 are read"),
        ("server.pem", "server.key", "other.key", "tls.client_ca {}/other.key: it holds no certificate"),
        ("server.pem", "server.key", "none.pem", "tls.client_ca {}/none.pem: No such file or directory"),
    ],
)
def test_bad_ones_are_told_apart(folder: Path, cert: str, key: str, client_ca: str, expected: str) -> None:
    said = tried(folder, cert, key, client_ca)
    assert expected.format(folder) in said
    assert said.startswith(f"{folder}/shop.toml:3: listener http: tls."), said
    assert "\n" not in said

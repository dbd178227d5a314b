"""The primary's imports without what it never uses: absent where they were hidden, whole for who imports them later."""

import hashlib
import hmac
import subprocess
import sys
from importlib.metadata import version

from clusterd.cli.lean import installed_version


def told(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_primary_without_tls_carries_neither_openssl_nor_a_web_server_that_it_never_starts() -> None:
    code = (
        "import sys; sys.argv = ['clusterd', 'run']; import clusterd.cli.run\n"
        "print(sorted({'ssl', '_ssl', 'email', 'http.server', 'urllib.request', 'importlib.metadata', 'rich',"
        " 'typing_extensions', 'zipfile', '_hashlib', 'hmac', 'secrets', 'unicodedata'} & set(sys.modules)))"
    )
    assert told(code) == "[]\n"


def test_what_was_hidden_is_whole_for_who_imports_it_later() -> None:
    code = (
        "from clusterd.cli import lean; lean.load()\n"
        "import ssl, http.server, wsgiref.simple_server, urllib.request, typing_extensions\n"
        "print(ssl.create_default_context().verify_mode.name, http.server.HTTPServer.__mro__[1].__name__,"
        " wsgiref.simple_server.make_server.__name__)"
    )
    assert told(code) == "CERT_REQUIRED TCPServer make_server\n"


def test_hashes_without_openssl_are_the_same_and_what_needs_it_still_gets_it() -> None:
    code = (
        "from clusterd.cli import lean; lean.load()\n"
        "import hashlib, sys; print('_hashlib' in sys.modules)\n"
        "for name in sorted(hashlib.algorithms_guaranteed):\n"
        "    digest = hashlib.new(name, b'some text')\n"
        "    print(name, digest.hexdigest(*[16] * ('shake' in name)))\n"
        "import hmac, secrets, random, _hashlib; print(hmac.new(b'key', b'text', 'sha256').hexdigest())"
    )
    expected = "".join(
        f"{name} {hashlib.new(name, b'some text').hexdigest(*[16] * ('shake' in name))}\n"  # type: ignore[call-arg]
        for name in sorted(hashlib.algorithms_guaranteed)
    )
    assert told(code) == f"False\n{expected}{hmac.new(b'key', b'text', 'sha256').hexdigest()}\n"


def test_what_was_imported_before_is_left_alone() -> None:
    code = (
        "import ssl, http.server; from clusterd.cli import lean; lean.load()\n"
        "import asyncio.sslproto, prometheus_client.exposition as exposition\n"
        "print(asyncio.sslproto.ssl is ssl, issubclass(exposition.MetricsHandler, http.server.BaseHTTPRequestHandler))"
    )
    assert told(code) == "True True\n"


def test_the_version_is_the_installed_package_s() -> None:
    assert installed_version() == version("clusterd")

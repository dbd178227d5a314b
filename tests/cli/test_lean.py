"""The primary's imports without what it never uses: absent where they were hidden, whole for who imports them later."""

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
        " 'typing_extensions', 'zipfile'} & set(sys.modules)))"
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


def test_what_was_imported_before_is_left_alone() -> None:
    code = (
        "import ssl, http.server; from clusterd.cli import lean; lean.load()\n"
        "import asyncio.sslproto, prometheus_client.exposition as exposition\n"
        "print(asyncio.sslproto.ssl is ssl, issubclass(exposition.MetricsHandler, http.server.BaseHTTPRequestHandler))"
    )
    assert told(code) == "True True\n"


def test_the_version_is_the_installed_package_s() -> None:
    assert installed_version() == version("clusterd")

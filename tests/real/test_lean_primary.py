"""What a serving primary has mapped: its memory counts on every machine that runs a service, beside the workers'."""

from pathlib import Path

import pytest

from tests.real.harness import Launcher


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_serving_primary_has_neither_openssl_nor_unicode_s_tables_mapped(launcher: Launcher, host: str) -> None:
    service = launcher.start(settings={"listeners": {"http": {"address": f"{host}:0"}}}, workers=1)
    assert service.get("/").status == 200
    mapped = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "libpython" in mapped or "python3" in mapped
    assert [name for name in ("libcrypto", "libssl", "_hashlib", "unicodedata") if name in mapped] == []

"""An app that holds a gigabyte."""

from hello import app  # noqa: F401 - what is served

HELD = bytearray(1 << 30)
for start in range(0, len(HELD), 4096):
    HELD[start] = 1

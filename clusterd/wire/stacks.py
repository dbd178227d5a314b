"""The file by which a worker shows its stacks: a sealed memory of fixed size that it shares with the primary.

The primary empties it and sends :data:`SIGNAL`; the worker's handler, in C, writes the stacks of all threads from the
file's offset, which both share, and Python's, as soon as it can run, the rest and then :data:`ENDED`. Untrusted text.
"""

import signal
from typing import Final

SIZE: Final = 256 * 1024
"""Bytes of the file, the state included: a write beyond it fails, so that is all that a worker can make of it."""

STATE: Final = SIZE - 8
"""Where the state stands, eight bytes; before it there is text, up to the first zero."""

ARMED: Final = b"armed\0\0\0"
"""Written by the worker once it has its handler: the signal would end one that has none."""

ASKED: Final = b"asked\0\0\0"
"""Written by the primary, before the signal."""

ENDED: Final = b"ended\0\0\0"
"""Written by the worker behind all that it has to say."""

SIGNAL: Final = signal.SIGRTMAX - 1
"""What asks for the stacks: far from those that people, debuggers and C libraries use."""

"""A listening TCP socket that lets no new client in while those in its queue are still accepted.

Without it a connection whose handshake completes between the last accept and close is reset by the kernel.
"""

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_TCP_FLAGS_OFFSET: Final = 13
_SYN: Final = 0x02
_ACK: Final = 0x10

# Classic BPF over the TCP header (socket(7), SO_ATTACH_FILTER): drop what has SYN and not ACK, let all else pass, the
# last packet of a handshake that has begun among it. Dropping everything would leave such clients hanging.
_PROGRAM: Final = (
    (0x30, 0, 0, _TCP_FLAGS_OFFSET),  # ldb [13]
    (0x54, 0, 0, _SYN | _ACK),  # and #0x12
    (0x15, 0, 1, _SYN),  # jeq #0x02, next, skip one
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)


def refuse_new(listener: socket.socket) -> bool:
    """Drop new handshakes from now on; their clients try again after a second and find the socket closed.

    Returns:
        False where the kernel does not permit it (from Linux 6.x on TCP filters need CAP_NET_ADMIN) or the socket is no
        TCP socket: then a client that arrives in the last microseconds may be reset.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _PROGRAM)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(_PROGRAM), ctypes.addressof(buffer))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True

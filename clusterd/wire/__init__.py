"""Bytes to messages and back, on every wire of clusterd. No sockets here, no clocks, no processes."""

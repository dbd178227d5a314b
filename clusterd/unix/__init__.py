"""One kernel facility a file: pidfds, signals, sockets, descriptor passing, shared memory, service notification,
cgroups."""

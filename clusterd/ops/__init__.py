"""What people and machines look at: logs, metrics, health, status, notifications.

The room reads two things, both supplied by the composition root: facts, one by one as the core states them, and a
:class:`~clusterd.ops.source.Source` that answers what is so now. It steers nothing and waits for nothing: an observer
runs inside the primary's loop.
"""

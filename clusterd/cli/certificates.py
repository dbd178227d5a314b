"""The files of TLS, tried before anything depends on them: as ``check`` and ``run`` do it."""

from clusterd.config.load import Loaded
from clusterd.errors import ConfigError, HostError, Problem
from clusterd.primary.certificates import read_all


def verify(loaded: Loaded) -> None:
    """Read the files of every listener with TLS and make of them what the workers will.

    Raises:
        ConfigError: one sentence for each listener whose files cannot be used.
    """
    if not any(listener.tls.cert for listener in loaded.config.listeners.values()):
        return
    from clusterd.worker import tls  # a primary without TLS is a megabyte less without OpenSSL

    problems = []
    for name, listener in loaded.config.listeners.items():
        try:
            for one, material in read_all({name: listener}).items():
                tls.context(one, material)
        except HostError as error:
            origin = loaded.provenance.get(f"listeners.{name}.tls.cert")
            where = "" if origin is None else origin.name
            problems.append(Problem(str(error), "", where, None if origin is None else origin.line))
    if problems:
        raise ConfigError(problems)

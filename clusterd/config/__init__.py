"""Configuration: a TOML file, flags and the environment become frozen structs, or one list of all that is wrong.

``open_config`` is the way in for a command; ``load`` and ``from_flags`` are its two halves. The schema with its
defaults and documentation is ``schema.py``; what this version does not have yet is the table in ``later.py``.
"""

from clusterd.config.address import Address, parse_address
from clusterd.config.document import Origin, read_file
from clusterd.config.explain import Explanation, explain, explain_defaults, reference_rows, select, suggestions
from clusterd.config.flags import Flags, parse_set
from clusterd.config.jsonschema import json_schema
from clusterd.config.load import LOCAL_FILE, SYSTEM_FILE, Loaded, find_file, from_flags, load, open_config
from clusterd.config.policies import policy, pool_policy
from clusterd.config.schema import (
    Config,
    Control,
    Http,
    Limits,
    Listener,
    Log,
    Monitoring,
    Pool,
    Restart,
    Service,
    Shutdown,
)

__all__ = [
    "LOCAL_FILE",
    "SYSTEM_FILE",
    "Address",
    "Config",
    "Control",
    "Explanation",
    "Flags",
    "Http",
    "Limits",
    "Listener",
    "Loaded",
    "Log",
    "Monitoring",
    "Origin",
    "Pool",
    "Restart",
    "Service",
    "Shutdown",
    "explain",
    "explain_defaults",
    "find_file",
    "from_flags",
    "json_schema",
    "load",
    "open_config",
    "parse_address",
    "parse_set",
    "policy",
    "pool_policy",
    "read_file",
    "reference_rows",
    "select",
    "suggestions",
]
